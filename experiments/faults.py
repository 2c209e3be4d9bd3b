"""What a run loses to kills at random moments, damaged files and full disks.

Question: is a run that suffers a fault and is resumed equal, bit for bit, to a
run without the fault?

  python -m experiments.faults
  python -m experiments.faults --kills 200 --times 3 --json faults.json

A small run with adaptive spectra, kept eigenvectors, circuits and ablation is
made without a fault. Then it is made again and killed by SIGKILL at random
moments, and resumed after each, until its results are there; this is repeated
until there have been --kills kills. Every other fault is tried --times times.
What is compared is every bit of parameters, optimiser state and carries (by the
checksums of the checkpoints), history, eigenvectors and results.nc. Something
is lost if the outcome differs, if a run cannot be resumed, or if an error is
not stated in one line. Figures are not drawn.

A full and a read-only disk need a file system of their own, which only root can
mount. Without root a limit on the size of files replaces the full disk, and the
read-only disk is left out.

Prints: how often each fault was tried, and how often something was lost. The
exit status is 1 if anything was.
Takes: 15 minutes on 2 CPU cores for the default.
"""

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from experiments.faulty_runs import (
  NUM_STEPS,
  TIMEOUT,
  Reference,
  compare,
  expect_error,
  finish,
  make_reference,
  mount,
  read_bytes,
  read_checksums,
  remount,
  start,
  wait_for_directory,
  wait_for_results,
  wait_until,
)
from experiments.shared.reporting import Table, make_parser, report

STOP_SECONDS = 10.0  # that a run may take to stop after a signal
GROWTH = 1.05  # of the longest time to a kill, from one start to the next

# Makes a fault in a run directory; returns the problem, empty without one.
Fault = Callable[[Path, Reference], str]


def main(argv: list[str] | None = None) -> None:
  parser = make_parser(__doc__)
  parser.add_argument("--kills", type=int, default=20, help="default 20")
  parser.add_argument("--times", type=int, default=1, help="default 1")
  parser.add_argument("--seed", type=int, default=0, help="default 0")
  options = parser.parse_args(argv)
  random.seed(options.seed)
  with tempfile.TemporaryDirectory() as name:
    reference = make_reference(Path(name))
    faults = {
      name: try_fault(name, fault, reference, options.times)
      for name, fault in FAULTS.items()
    }
    kills, lost, mismatched = kill_repeatedly(reference, options.kills)
    faults["SIGKILL"] = {"tried": kills, "lost": lost}
  figures = {
    "kills": kills,
    "lost": sum(counts["lost"] for counts in faults.values()),
    "mismatched": mismatched,
    "faults": faults,
  }
  rows = [[name, x["tried"], x["lost"]] for name, x in faults.items()]
  table = Table(["fault", "tried", "lost"], ["", "", ""], rows)
  report({"faults": table}, options.json, figures)
  sys.exit(bool(figures["lost"]))


def try_fault(
  name: str, fault: Fault, reference: Reference, times: int
) -> dict[str, int]:
  """Tries a fault in runs of its own; counts tries and losses."""
  counts = {"tried": times, "lost": 0}
  for _ in range(times):
    run = reference.scratch / "faulty"
    shutil.rmtree(run, ignore_errors=True)
    problem = fault(run, reference)
    counts["lost"] += bool(problem)
    print(f"{name}: {problem or 'nothing lost'}", flush=True)
  return counts


def kill_repeatedly(reference: Reference, kills: int) -> tuple[int, int, int]:
  """Kills and resumes runs at random moments.

  Returns:
    The number of kills, of runs that failed or differed, and of those that
    differed.
  """
  done = lost = mismatched = number = 0
  while done < kills:
    number += 1
    run, problem = reference.scratch / f"killed_{number}", None
    longest = 0.7 * reference.seconds
    while problem is None:
      process = start(run, reference.scratch)
      if random.random() < 0.8:  # otherwise the kill may come in the start
        wait_for_directory(process)
      delay = random.uniform(0, longest)
      # A run on a machine that is busier now has to get to its end as well.
      longest *= GROWTH
      delay = delay if done < kills else TIMEOUT
      problem = wait_for_results(process, run, delay)
      done += problem is None
    problem = problem or compare(run, reference.run)
    lost += bool(problem)
    mismatched += "differ" in problem
    print(f"{done} kills, run {number}: {problem or 'equal'}", flush=True)
    shutil.rmtree(run)
  return done, lost, mismatched


def wait_at_random(run: Path, reference: Reference) -> None:
  del run
  time.sleep(random.uniform(0, reference.seconds / 2))


def wait_for_last_step(run: Path, reference: Reference) -> None:
  """Waits for the first record of the last step, of which more follow."""
  del reference
  record = b'{"step": %d,' % NUM_STEPS
  wait_until(lambda: record in read_bytes(run / "history.jsonl"))


def stop(
  number: int, wait: Callable[[Path, Reference], None] = wait_at_random
) -> Fault:
  """SIGTERM or SIGINT: the run stops soon with its exit status."""

  def fault(run: Path, reference: Reference) -> str:
    process = start(run, reference.scratch)
    wait_for_directory(process)
    wait(run, reference)
    process.send_signal(number)
    wait_until(lambda: process.poll() is not None, STOP_SECONDS)
    late = process.poll() is None
    out, err = process.communicate(timeout=TIMEOUT)
    if process.returncode != 128 + number or "induction_jax" not in out:
      return f"exit status {process.returncode}: {err}"
    if late:
      return f"took more than {STOP_SECONDS} s"
    return finish(run, reference)

  return fault


def damage(spoil: Callable[[Path], None]) -> Fault:
  """The newest checkpoint is damaged: the run resumes from the one before."""

  def fault(run: Path, reference: Reference) -> str:
    shutil.copytree(reference.run, run)
    last = run / "checkpoints" / str(read_checksums(run)["step"])
    spoil(last)
    problem = finish(run, reference)
    aside = run / "checkpoints" / "set_aside" / last.name
    return problem or ("" if aside.exists() else "was not set aside")

  return fault


def flip_bit(checkpoint: Path) -> None:
  path = choose_array(checkpoint)
  data = bytearray(path.read_bytes())
  data[random.randrange(len(data))] ^= 1 << random.randrange(8)
  path.write_bytes(data)


def truncate_array(checkpoint: Path) -> None:
  path = choose_array(checkpoint)
  path.write_bytes(path.read_bytes()[: random.randrange(path.stat().st_size)])


def choose_array(checkpoint: Path) -> Path:
  return random.choice(list(checkpoint.glob("leaves/[0-9]*")))


def empty(checkpoint: Path) -> None:
  shutil.rmtree(checkpoint)
  checkpoint.mkdir()


def remove_manifest(checkpoint: Path) -> None:
  (checkpoint / "manifest.json").unlink()


def remove_metadata(checkpoint: Path) -> None:
  (checkpoint / "_CHECKPOINT_METADATA").unlink()


def replace_by_other_step(checkpoint: Path) -> None:
  shutil.rmtree(checkpoint)
  shutil.copytree(checkpoint.parent / "6", checkpoint)


def change_dtype(checkpoint: Path) -> None:
  manifest = checkpoint / "manifest.json"
  values = json.loads(manifest.read_text())
  values["leaves"]["state.params.w_q"]["dtype"] = "float64"
  manifest.write_text(json.dumps(values))


def damage_all(run: Path, reference: Reference) -> str:
  """Every checkpoint is damaged: an error, and the history is kept."""
  shutil.copytree(reference.run, run)
  for path in (run / "checkpoints").iterdir():
    flip_bit(path)
  process = start(run, reference.scratch)
  if problem := expect_error(process, "checkpoint"):
    return problem
  histories = (read_bytes(x / "history.jsonl") for x in (run, reference.run))
  return "" if len(set(histories)) == 1 else "the history was not kept"


def truncate_history(run: Path, reference: Reference) -> str:
  """The last line of the history is incomplete."""
  shutil.copytree(reference.run, run)
  shutil.rmtree(run / "checkpoints" / str(read_checksums(run)["step"]))
  history = run / "history.jsonl"
  history.write_bytes(history.read_bytes()[: -random.randrange(1, 200)])
  return finish(run, reference)


def fill_disk(run: Path, reference: Reference) -> str:
  """The disk is full at some moment, and later has room again."""
  if os.geteuid():
    limit = random.randrange(2_000, 20_000)
    process = start(run, reference.scratch, limit)
    return expect_error(process) or finish(run, reference)
  size = random.randrange(400, 900)
  with mount(run, f"size={size}k"):
    problem = expect_error(start(run / "run", reference.scratch), "run")
    remount(run, "size=64m")
    return problem or finish(run / "run", reference)


def make_read_only(run: Path, reference: Reference) -> str:
  """The directory cannot be written, and later can."""
  with mount(run, "size=64m"):
    shutil.copytree(reference.run, run / "run")
    shutil.rmtree(run / "run" / "checkpoints" / str(NUM_STEPS))
    remount(run, "ro")
    process = start(run / "run", reference.scratch)
    problem = expect_error(process, "Read-only file system")
    remount(run, "rw")
    return problem or finish(run / "run", reference)


def remove_directory(run: Path, reference: Reference) -> str:
  """The directory disappears while the run is going: an error, soon."""
  process = start(run, reference.scratch)
  wait_for_directory(process)
  time.sleep(random.uniform(0.2, 0.5) * reference.seconds)
  run.rename(run.with_name("elsewhere"))
  problem = expect_error(process)
  shutil.rmtree(run.with_name("elsewhere"))
  return problem or ("it was created again" if run.exists() else "")


def start_twice(run: Path, reference: Reference) -> str:
  """A second run in the same directory is refused, and the first goes on."""
  first = start(run, reference.scratch)
  wait_for_directory(first)
  second = start(run, reference.scratch)
  problem = expect_error(second, "in use by another process")
  first.kill()
  first.communicate()
  return problem or finish(run, reference)


FAULTS: dict[str, Fault] = {
  "SIGTERM": stop(signal.SIGTERM),
  "SIGINT": stop(signal.SIGINT),
  "SIGTERM in the last measurements": stop(signal.SIGTERM, wait_for_last_step),
  "bit of a checkpoint flipped": damage(flip_bit),
  "array file cut off": damage(truncate_array),
  "checkpoint empty": damage(empty),
  "checkpoint without manifest": damage(remove_manifest),
  "checkpoint without metadata": damage(remove_metadata),
  "checkpoint of another step": damage(replace_by_other_step),
  "dtype changed": damage(change_dtype),
  "every checkpoint damaged": damage_all,
  "line of the history cut off": truncate_history,
  "disk full": fill_disk,
  "directory vanished": remove_directory,
  "two runs in one directory": start_twice,
}
if os.geteuid() == 0:
  FAULTS["disk read-only"] = make_read_only


if __name__ == "__main__":
  main()
