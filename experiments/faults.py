r"""What a run loses to each fault: kills at random moments, damage, full disks.

  python -m experiments.faults
  python -m experiments.faults --kills 200 --json faults.json

From the repository's root. A tiny run with adaptive spectra, kept eigenvectors,
circuits and ablation is made without a fault. Then it is made again and again,
killed (SIGKILL) at random moments until `--kills` kills are done, resumed after
each, and compared once its results.nc is there: every bit of parameters,
optimiser state and carries (by the checkpoints' checksums), the history's and
the eigenvectors' bytes, results.nc. (It is killed then as well, in place of
drawing figures.) The other faults are made `--times` times each. Something is
lost where the outcome differs, or a run that should go on does not, or an error
is not one line.

A full and a read-only disk need a file system of their own, which only root can
mount; elsewhere a limit on the size of files stands for the first, and the
second is left out.
"""

import argparse
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import xarray as xr

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = {
  "task.vocab_size": 11,
  "task.seq_length": 16,
  "task.pattern_min": 2,
  "task.pattern_max": 4,
  "task.gap_max": 2,
  "model.n_heads": 2,
  "model.d_model": 8,
  "train.num_steps": 30,
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
LONGEST = 600.0  # seconds any one start may take
POLL = 0.02
LONGER = 1.05  # each time a run may go on, in times of the one before
PROMPT = 10.0  # seconds a run that is told to stop may take


class Bench(NamedTuple):
  """What every fault is tried on.

  Attributes:
    whole: the run without a fault.
    scratch: where the others are made.
    seconds: the whole run's, from the line that names its directory.
  """

  whole: Path
  scratch: Path
  seconds: float


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument("--kills", type=int, default=20)
  parser.add_argument("--times", type=int, default=1)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--json", type=Path)
  chosen = parser.parse_args()
  random.seed(chosen.seed)
  with tempfile.TemporaryDirectory() as name:
    bench = make_bench(Path(name))
    faults: dict[str, dict[str, int]] = {}
    for what, fault in FAULTS.items():
      faults[what] = {"tried": 0, "lost": 0}
      for _ in range(chosen.times):
        _note(faults[what], what, attempt(fault, bench))
    kills, lost, mismatched = kill_until(bench, chosen.kills)
    faults["SIGKILL"] = {"tried": kills, "lost": lost}
  found = {
    "kills": kills,
    "lost": sum(each["lost"] for each in faults.values()),
    "mismatched": mismatched,
    "faults": faults,
  }
  print("| fault | tried | lost |\n|---|---|---|")
  for what, each in faults.items():
    print(f"| {what} | {each['tried']} | {each['lost']} |")
  if chosen.json:
    chosen.json.write_text(json.dumps(found, indent=2) + "\n")
  sys.exit(bool(found["lost"]))


def make_bench(scratch: Path) -> Bench:
  """Makes the run without a fault, twice: once to compile it."""
  for name in ("compiled", "whole"):
    process = start(scratch / name, scratch)
    wait_for_directory(process)
    began = time.monotonic()
    if told := wait_for_results(process, scratch / name):
      raise RuntimeError(f"the run without a fault failed: {told}")
    seconds = time.monotonic() - began
  print(f"without a fault results are there {seconds:.1f} s after the start")
  told = differences(scratch / "compiled", scratch / "whole")
  if told:
    raise RuntimeError(f"two runs without a fault differ: {told}")
  return Bench(scratch / "whole", scratch, seconds)


def start(
  run: Path, scratch: Path, limit: int | None = None
) -> subprocess.Popen:
  """Starts the run, or goes on with it.

  Args:
    run: its directory.
    scratch: where compiled programs are kept.
    limit: bytes that no file may exceed.
  """
  command = [sys.executable, "-m", "induction_jax.train"]
  command += ["--config=configs/quick.py", f"--workdir={run}"]
  command += [f"--config.{leaf}={value}" for leaf, value in SETTINGS.items()]

  def restrict() -> None:
    if limit is not None:
      signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # an error in its place
      resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

  return subprocess.Popen(
    command,
    cwd=ROOT,
    env=os.environ
    | {
      "JAX_COMPILATION_CACHE_DIR": str(scratch / "programs"),
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
      "MPLBACKEND": "Agg",
      "PYTHONUNBUFFERED": "1",
    },
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    preexec_fn=restrict,
  )


def kill_until(bench: Bench, kills: int) -> tuple[int, int, int]:
  """Kills runs at random moments; returns how often, and what was lost.

  The number lost is of runs that could not go on or ended otherwise, the
  number mismatched of the latter.
  """
  done = lost = mismatched = number = 0
  while done < kills:
    number += 1
    run, told = bench.scratch / f"killed_{number}", None
    longest = 0.7 * bench.seconds
    while told is None:
      process = start(run, bench.scratch)
      if random.random() < 0.8:  # else in the start itself
        wait_for_directory(process)
      delay = random.uniform(0, longest)
      longest *= LONGER  # a machine that is busier now gets to the end as well
      delay = delay if done < kills else LONGEST
      told = wait_for_results(process, run, delay)
      done += told is None
    told = told or differences(run, bench.whole)
    lost += bool(told)
    mismatched += "differ" in told
    print(f"{done} kills, run {number}: {told or 'equal'}", flush=True)
    shutil.rmtree(run)
  return done, lost, mismatched


def attempt(fault: Callable[[Path, Bench], str], bench: Bench) -> str:
  """Makes a fault in a run of its own; returns what was lost, if anything."""
  run = bench.scratch / "faulty"
  shutil.rmtree(run, ignore_errors=True)
  return fault(run, bench)


def finish(run: Path, bench: Bench) -> str:
  """Goes on to the results; says how they differ, if they do."""
  (run / "results.nc").unlink(missing_ok=True)
  told = wait_for_results(start(run, bench.scratch), run)
  return told or differences(run, bench.whole)


def wait_for_results(
  process: subprocess.Popen, run: Path, longest: float = LONGEST
) -> str | None:
  """Kills a run once its results are there, or after so many seconds.

  Returns:
    None if it took longer, else what went wrong, empty if nothing did.
  """
  for _ in range(int(longest / POLL)):  # counts no time in which it is paused
    if process.poll() is not None or (run / "results.nc").exists():
      break
    time.sleep(POLL)
  process.kill()
  _, err = process.communicate()
  if (run / "results.nc").exists():
    return ""
  killed = process.returncode == -signal.SIGKILL
  return None if killed else f"could not go on: {err.strip()}"


def differences(run: Path, whole: Path) -> str:
  """How a finished run differs from another; empty if in no bit that counts."""
  found = []
  if checksums(run) != checksums(whole):
    found.append("parameters, optimiser state or carries")
  if _bytes(run / "history.jsonl") != _bytes(whole / "history.jsonl"):
    found.append("history")
  for path in (whole / "eigenvectors").iterdir():
    if _bytes(run / "eigenvectors" / path.name) != path.read_bytes():
      found.append(f"eigenvectors/{path.name}")
  with (
    xr.open_dataset(run / "results.nc") as got,
    xr.open_dataset(whole / "results.nc") as expected,
  ):
    if not got.identical(expected):
      found.append("results.nc")
  return f"differs in {', '.join(found)}" if found else ""


def checksums(run: Path) -> dict[str, Any]:
  """Those of every leaf of the last checkpoint."""
  saved = (run / "checkpoints").iterdir()
  last = max(int(path.name) for path in saved if path.name.isdecimal())
  manifest = run / "checkpoints" / str(last) / "manifest.json"
  return {"step": last, **json.loads(manifest.read_text())["leaves"]}


def sometime(run: Path, bench: Bench) -> None:
  """Waits for a random moment."""
  del run
  time.sleep(random.uniform(0, bench.seconds / 2))


def last_measurements(run: Path, bench: Bench) -> None:
  """Waits for the first record of the last step; more are to come."""
  del bench
  record = b'{"step": %d,' % SETTINGS["train.num_steps"]
  for _ in range(int(LONGEST / POLL)):
    if record in _bytes(run / "history.jsonl"):
      return
    time.sleep(POLL)


def stop(
  number: int, wait: Callable[[Path, Bench], None] = sometime
) -> Callable[[Path, Bench], str]:
  """SIGTERM or SIGINT: its exit status, soon, and nothing lost."""

  def fault(run: Path, bench: Bench) -> str:
    process = start(run, bench.scratch)
    wait_for_directory(process)
    wait(run, bench)
    process.send_signal(number)
    for _ in range(int(PROMPT / POLL)):
      if process.poll() is not None:
        break
      time.sleep(POLL)
    late = process.poll() is None
    out, err = process.communicate(timeout=LONGEST)
    if process.returncode != 128 + number or "to go on:" not in out:
      return f"exit status {process.returncode}: {err}"
    return f"took more than {PROMPT} s" if late else finish(run, bench)

  return fault


def damage(spoil: Callable[[Path], None]) -> Callable[[Path, Bench], str]:
  """A newest checkpoint that is spoilt: the one before is gone on from."""

  def fault(run: Path, bench: Bench) -> str:
    shutil.copytree(bench.whole, run)
    last = run / "checkpoints" / str(checksums(run)["step"])
    spoil(last)
    told = finish(run, bench)
    aside = run / "checkpoints" / "set_aside" / last.name
    return told or ("" if aside.exists() else "was not set aside")

  return fault


def flip_bit(checkpoint: Path) -> None:
  path = random.choice(_arrays(checkpoint))
  data = bytearray(path.read_bytes())
  data[random.randrange(len(data))] ^= 1 << random.randrange(8)
  path.write_bytes(data)


def truncate_arrays(checkpoint: Path) -> None:
  path = random.choice(_arrays(checkpoint))
  path.write_bytes(path.read_bytes()[: random.randrange(path.stat().st_size)])


def empty(checkpoint: Path) -> None:
  shutil.rmtree(checkpoint)
  checkpoint.mkdir()


def without_manifest(checkpoint: Path) -> None:
  (checkpoint / "manifest.json").unlink()


def without_metadata(checkpoint: Path) -> None:
  (checkpoint / "_CHECKPOINT_METADATA").unlink()


def other_step(checkpoint: Path) -> None:
  shutil.rmtree(checkpoint)
  shutil.copytree(checkpoint.parent / "6", checkpoint)


def other_dtype(checkpoint: Path) -> None:
  manifest = checkpoint / "manifest.json"
  values = json.loads(manifest.read_text())
  values["leaves"]["state.params.w_q"]["dtype"] = "float64"
  manifest.write_text(json.dumps(values))


def all_damaged(run: Path, bench: Bench) -> str:
  """Every checkpoint spoilt: an error, and the history is kept."""
  shutil.copytree(bench.whole, run)
  for path in (run / "checkpoints").iterdir():
    flip_bit(path)
  told = _refused(start(run, bench.scratch), "no checkpoint that can be")
  same = _bytes(run / "history.jsonl") == _bytes(bench.whole / "history.jsonl")
  return told or ("" if same else "the history was not kept")


def half_line(run: Path, bench: Bench) -> str:
  """A line of the history cut off."""
  shutil.copytree(bench.whole, run)
  shutil.rmtree(run / "checkpoints" / str(checksums(run)["step"]))
  history = run / "history.jsonl"
  history.write_bytes(history.read_bytes()[: -random.randrange(1, 200)])
  return finish(run, bench)


def full_disk(run: Path, bench: Bench) -> str:
  """No room left at some moment; then there is."""
  if os.geteuid():
    return _no_room_for_files(run, bench)
  size = random.randrange(400, 900)
  with _mounted(run, f"size={size}k"):
    told = _refused(start(run / "run", bench.scratch), "run")
    subprocess.run(["mount", "-o", "remount,size=64m", run], check=True)
    return told or finish(run / "run", bench)


def _no_room_for_files(run: Path, bench: Bench) -> str:
  limit = random.randrange(2_000, 20_000)
  told = _refused(start(run, bench.scratch, limit), "")
  return told or finish(run, bench)


def read_only(run: Path, bench: Bench) -> str:
  """A directory that cannot be written; then it can."""
  with _mounted(run, "size=64m"):
    shutil.copytree(bench.whole, run / "run")
    shutil.rmtree(run / "run" / "checkpoints" / "30")
    subprocess.run(["mount", "-o", "remount,ro", run], check=True)
    told = _refused(start(run / "run", bench.scratch), "Read-only file system")
    subprocess.run(["mount", "-o", "remount,rw", run], check=True)
    return told or finish(run / "run", bench)


def vanished(run: Path, bench: Bench) -> str:
  """The directory removed while the run goes on: an error, soon."""
  process = start(run, bench.scratch)
  wait_for_directory(process)
  time.sleep(random.uniform(0.2, 0.5) * bench.seconds)
  run.rename(run.with_name("elsewhere"))
  told = _refused(process, "")
  shutil.rmtree(run.with_name("elsewhere"))
  return told or ("it was made again" if run.exists() else "")


def two_runs(run: Path, bench: Bench) -> str:
  """A second run in the same directory is refused, the first goes on."""
  first = start(run, bench.scratch)
  wait_for_directory(first)
  told = _refused(start(run, bench.scratch), "in use by another process")
  first.kill()
  first.communicate()
  return told or finish(run, bench)


FAULTS: dict[str, Callable[[Path, Bench], str]] = {
  "SIGTERM": stop(signal.SIGTERM),
  "SIGINT": stop(signal.SIGINT),
  "SIGTERM in the last measurements": stop(signal.SIGTERM, last_measurements),
  "bit of a checkpoint flipped": damage(flip_bit),
  "array file cut off": damage(truncate_arrays),
  "checkpoint empty": damage(empty),
  "checkpoint without manifest": damage(without_manifest),
  "checkpoint without metadata": damage(without_metadata),
  "checkpoint of another step": damage(other_step),
  "dtype changed": damage(other_dtype),
  "every checkpoint damaged": all_damaged,
  "line of the history cut off": half_line,
  "disk full": full_disk,
  "directory vanished": vanished,
  "two runs in one directory": two_runs,
}
if os.geteuid() == 0:
  FAULTS["disk read-only"] = read_only


class _mounted:  # noqa: N801, a context manager used as a function
  """A small file system in memory, gone at the end."""

  def __init__(self, path: Path, options: str):
    self._path, self._options = path, options

  def __enter__(self) -> None:
    self._path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", self._options, "tmpfs"]
    subprocess.run([*command, self._path], check=True)

  def __exit__(self, *_: object) -> None:
    subprocess.run(["umount", self._path], check=True)


def _refused(process: subprocess.Popen, expected: str) -> str:
  """Says what is wrong unless a start ends with one line that says it."""
  _, err = process.communicate(timeout=LONGEST)
  errors = [x for x in err.splitlines() if not x.startswith("warning: ")]
  if process.returncode in (0, None) or process.returncode < 0:
    return f"exit status {process.returncode}"
  clear = len(errors) == 1 and errors[0].startswith("error: ")
  return "" if clear and expected in err else f"it said: {err}"


def wait_for_directory(process: subprocess.Popen) -> None:
  """Until the run says where it is, so has begun."""
  assert process.stdout is not None
  while line := process.stdout.readline():
    if line.startswith("run directory"):
      return


def _arrays(checkpoint: Path) -> list[Path]:
  return [path for path in checkpoint.rglob("d/*") if path.stat().st_size]


def _bytes(path: Path) -> bytes:
  return path.read_bytes() if path.exists() else b""


def _note(counts: dict[str, int], what: str, told: str) -> None:
  counts["tried"] += 1
  counts["lost"] += bool(told)
  print(f"{what}: {told or 'nothing lost'}", flush=True)


if __name__ == "__main__":
  main()
