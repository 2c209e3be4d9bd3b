"""Whether a disk will hold a run, asked before it starts."""

import shutil
import sys
from pathlib import Path

from induction_jax.storage import checkpoints

FEWEST = 3  # checkpoints that must fit: two to keep, and one being written
MIB = 2**20


def check_disk(directory: Path, each: int, count: int) -> None:
  """Saves and restores a small checkpoint, and compares what is free.

  Args:
    directory: where checkpoints are to be; the directory above exists.
    each: bytes of a checkpoint.
    count: how many are due.

  Raises:
    OSError: if what is written does not come back, or not even a few
      checkpoints fit. That not all of them do is a warning.
  """
  checkpoints.self_test(directory)
  free = shutil.disk_usage(directory).free
  needed = min(count, FEWEST) * each
  if free < needed:
    raise OSError(
      f"{directory}: {free / MIB:.3g} MiB are free, and {min(count, FEWEST)} "
      f"checkpoints need {needed / MIB:.3g} MiB"
    )
  if free < count * each:
    print(
      f"warning: {directory}: {free / MIB:.3g} MiB are free, and the "
      f"{count} checkpoints due need {count * each / MIB:.3g} MiB",
      file=sys.stderr,
    )
