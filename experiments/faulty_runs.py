"""Starting, stopping and comparing the small runs that faults are tried on."""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import xarray as xr

from experiments.shared.reporting import ROOT

NUM_STEPS = 30
SETTINGS = {
  "task.vocab_size": 11,
  "task.seq_length": 16,
  "task.pattern_min": 2,
  "task.pattern_max": 4,
  "task.gap_max": 2,
  "model.n_heads": 2,
  "model.d_model": 8,
  "train.num_steps": NUM_STEPS,
  "train.batch_size": 4,
  "behaviour.interval": 1,
  "behaviour.batch_size": 4,
  "circuits.interval": 10,
  "ablation.interval": 10,
  "spectra.eigen_interval": 6,
  "spectra.adaptive": 2,
  "spectra.keep_eigenvectors": True,
  "spectra.track_top_k_eigenvalues": 2,
  "spectra.preconditioned_top_k": 1,
  "spectra.batch_size": 4,
  "spectra.micro_batch_size": 2,
  "spectra.max_order": 12,
  "checkpoint.interval": 6,
}
TIMEOUT = 600.0  # seconds for any start
POLL_SECONDS = 0.02


class Reference(NamedTuple):
  """The run without a fault, with which the others are compared.

  Attributes:
    run: its directory.
    scratch: directory of the other runs and of compiled programs.
    seconds: from the line that names its directory to its results.
  """

  run: Path
  scratch: Path
  seconds: float


def make_reference(scratch: Path) -> Reference:
  """Makes the run without a fault twice, the first time to compile it.

  Raises:
    RuntimeError: if a run fails, or the two differ.
  """
  for name in ("compiled", "reference"):
    process = start(scratch / name, scratch)
    wait_for_directory(process)
    began = time.monotonic()
    if problem := wait_for_results(process, scratch / name):
      raise RuntimeError(f"the run without a fault failed: {problem}")
    seconds = time.monotonic() - began
  print(f"without a fault the results come {seconds:.1f} s after the start")
  if problem := compare(scratch / "compiled", scratch / "reference"):
    raise RuntimeError(f"two runs without a fault differ: {problem}")
  return Reference(scratch / "reference", scratch, seconds)


def start(
  run: Path, scratch: Path, file_limit: int | None = None
) -> subprocess.Popen:
  """Starts a run, or resumes it.

  Args:
    run: its directory.
    scratch: directory of compiled programs.
    file_limit: size in bytes that no file may exceed.
  """
  command = [sys.executable, "-m", "induction_jax.train"]
  command += ["--config=quick", f"--workdir={run}"]
  command += [f"--config.{name}={value}" for name, value in SETTINGS.items()]

  def limit_files() -> None:
    if file_limit is not None:
      # Ignored, so that a write beyond the limit raises an error.
      signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
      resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))

  environment = os.environ | {
    "JAX_COMPILATION_CACHE_DIR": str(scratch / "programs"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "MPLBACKEND": "Agg",
    "PYTHONUNBUFFERED": "1",
  }
  return subprocess.Popen(
    command,
    cwd=ROOT,
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    preexec_fn=limit_files,
  )


def wait_for_directory(process: subprocess.Popen) -> None:
  """Waits until the run prints its directory, and so has begun."""
  assert process.stdout is not None
  while line := process.stdout.readline():
    if line.startswith("run directory"):
      return


def wait_until(condition: Callable[[], bool], seconds: float = TIMEOUT) -> None:
  """Waits for a condition, but not longer than a time.

  It counts its own pauses, so that time in which it is suspended is not
  counted.
  """
  for _ in range(int(seconds / POLL_SECONDS)):
    if condition():
      return
    time.sleep(POLL_SECONDS)


def wait_for_results(
  process: subprocess.Popen, run: Path, seconds: float = TIMEOUT
) -> str | None:
  """Kills a run once its results are there, or after some seconds.

  Returns:
    None if the results were not there in time; else what went wrong, empty if
    nothing did.
  """
  results = run / "results.nc"
  wait_until(lambda: process.poll() is not None or results.exists(), seconds)
  process.kill()
  _, err = process.communicate()
  if results.exists():
    return ""
  killed = process.returncode == -signal.SIGKILL
  return None if killed else f"could not resume: {err.strip()}"


def finish(run: Path, reference: Reference) -> str:
  """Resumes a run up to its results; returns how they differ, if they do."""
  (run / "results.nc").unlink(missing_ok=True)
  problem = wait_for_results(start(run, reference.scratch), run)
  if problem is None:
    return f"no results after {TIMEOUT:.0f} s"
  return problem or compare(run, reference.run)


def compare(run: Path, reference: Path) -> str:
  """How a finished run differs from another; empty if every bit agrees."""
  found = []
  if read_checksums(run) != read_checksums(reference):
    found.append("parameters, optimiser state or carries")
  if read_bytes(run / "history.jsonl") != read_bytes(
    reference / "history.jsonl"
  ):
    found.append("history")
  for path in (reference / "eigenvectors").iterdir():
    if read_bytes(run / "eigenvectors" / path.name) != path.read_bytes():
      found.append(f"eigenvectors/{path.name}")
  with (
    xr.open_dataset(run / "results.nc") as got,
    xr.open_dataset(reference / "results.nc") as expected,
  ):
    if not got.identical(expected):
      found.append("results.nc")
  return f"differs in {', '.join(found)}" if found else ""


def expect_error(process: subprocess.Popen, expected: str = "") -> str:
  """Waits for the end; returns a problem unless one line states the error."""
  _, err = process.communicate(timeout=TIMEOUT)
  errors = [x for x in err.splitlines() if not x.startswith("warning: ")]
  if process.returncode <= 0:
    return f"exit status {process.returncode}"
  clear = len(errors) == 1 and errors[0].startswith("error: ")
  return "" if clear and expected in err else f"unclear error: {err}"


def read_checksums(run: Path) -> dict[str, Any]:
  """The checksums of every array of the last checkpoint."""
  saved = (run / "checkpoints").iterdir()
  last = max(int(path.name) for path in saved if path.name.isdecimal())
  manifest = run / "checkpoints" / str(last) / "manifest.json"
  return {"step": last, **json.loads(manifest.read_text())["leaves"]}


def read_bytes(path: Path) -> bytes:
  """The content of a file, empty if there is none."""
  return path.read_bytes() if path.exists() else b""


@contextlib.contextmanager
def mount(path: Path, options: str) -> Iterator[None]:
  """A small file system in memory, unmounted at the end."""
  path.mkdir()
  command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", path]
  subprocess.run(command, check=True)
  try:
    yield
  finally:
    subprocess.run(["umount", path], check=True)


def remount(path: Path, options: str) -> None:
  subprocess.run(["mount", "-o", f"remount,{options}", path], check=True)
