"""The checkpoints of a run, by step: saving, restoring, passing over damage.

A checkpoint is written beside its place, forced to disk and then renamed:

  <step>/         a complete checkpoint
  <step>.saving/  one that is being written, or that a crash has cut off
  <step>.before/  an earlier checkpoint of the step, until it is replaced
  set_aside/      checkpoints that were damaged or did not fit the run

`save` returns when the bytes are on disk, so a failed write is an error of the
save that made it.
"""

import errno
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from induction_jax.devices.processes import key_data, wrap_keys
from induction_jax.storage import checkpoint_format, version_1
from induction_jax.storage.checkpoint_format import CheckpointError
from induction_jax.storage.files import force_to_disk
from induction_jax.types import PyTree

SAVING, BEFORE = ".saving", ".before"
SET_ASIDE = "set_aside"
SELF_TEST = "self_test"
# What the manifest takes for each leaf, and a checkpoint besides its leaves.
LEAF_BYTES, FILES_BYTES = 2**10, 2**16
MIN_CHECKPOINTS = 3  # must fit: two to keep, and one being written
MIB = 2**20


def save(directory: Path, step: int, tree: PyTree, note: Any = None) -> None:
  """Saves a pytree of arrays and typed keys as the checkpoint of a step.

  An earlier checkpoint of the step stays until the new one is complete. The
  directory is made if need be, but not its parent: if that is gone, so is the
  run.

  Args:
    directory: where the checkpoints are.
    step: the training step.
    tree: the arrays, fully addressable by this process.
    note: JSON that is kept in the manifest.

  Raises:
    OSError: if it cannot be written; earlier checkpoints stay.
  """
  path = directory.absolute() / str(step)
  partial = path.with_name(path.name + SAVING)
  try:
    directory.mkdir(exist_ok=True)
    _tidy(directory)
    inode = directory.stat().st_ino
    # Orbax reports a full disk in a hundred lines from several threads.
    if shutil.disk_usage(directory).free < checkpoint_bytes(tree):
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    leaves = checkpoint_format.named_leaves(jax.device_get(key_data(tree)))
    checkpoint_format.write(partial, step, leaves, note)
    for below in [*partial.rglob("*"), partial]:
      force_to_disk(below)
    if directory.stat().st_ino != inode:  # orbax has made it anew
      raise OSError(errno.ENOENT, "its directory has gone")
    if path.exists():
      path.rename(path.with_name(path.name + BEFORE))
    partial.rename(path)
    force_to_disk(directory)
    _tidy(directory)
  except OSError as error:
    _tidy(directory)
    kept = ", ".join(map(str, steps(directory))) or "none"
    raise OSError(
      f"checkpoint {path} was not saved ({error.strerror or error}); saved "
      f"before it: steps {kept}"
    ) from error


def checkpoint_bytes(tree: PyTree) -> int:
  """Bytes that a checkpoint of a pytree of arrays takes on disk, at most."""
  leaves = jax.tree.leaves(tree)
  return sum(x.nbytes for x in leaves) + LEAF_BYTES * len(leaves) + FILES_BYTES


def steps(directory: Path) -> list[int]:
  """Steps with a complete checkpoint, ascending; `restore` verifies it."""
  part = version_1.read_part(directory)
  stacked = _complete_steps(part.stacked) if part else set()
  return sorted(_complete_steps(directory) | stacked)


def verified_steps(directory: Path, steps: Iterable[int]) -> Iterator[int]:
  """Yields those of the steps whose files are what was saved.

  Each other step is reported in one line on standard error.
  """
  for step in steps:
    try:
      checkpoint_format.read_manifest(_locate(directory, step)[0])
      yield step
    except CheckpointError as error:
      print(f"warning: {error}; not used", file=sys.stderr)


def restore(directory: Path, step: int, like: PyTree) -> PyTree:
  """Restores the checkpoint of a step and verifies every bit of it.

  Args:
    directory: where the checkpoints are.
    step: one of steps(directory).
    like: a pytree with the structure, shapes, dtypes and key types to restore.
      Leaves that only the checkpoint has are verified and left out.

  Raises:
    CheckpointError: if a leaf of `like` is missing or has another shape or
      dtype, or any leaf or file is not what was saved.
  """
  return _restore(directory, step, like)[0]


def restore_newest(
  directory: Path,
  like: PyTree,
  set_aside: bool,
  complain: Callable[[Any], str] = lambda note: "",
) -> PyTree | None:
  """Restores the newest checkpoint that verifies; None if there is none.

  Args:
    directory: where the checkpoints are.
    like: see `restore`.
    set_aside: see `restore_newest_common`.
    complain: returns from a checkpoint's note why the run cannot continue from
      it, "" if it can. Such a checkpoint stays in its place.
  """
  restored = restore_newest_common(
    [directory], like, set_aside, lambda _, note: complain(note)
  )
  return restored[0] if restored else None


def restore_newest_common(
  directories: Sequence[Path],
  like: PyTree,
  set_aside: bool,
  complain: Callable[[int, Any], str] = lambda index, note: "",
) -> list[PyTree] | None:
  """Restores the newest step whose checkpoints verify in all directories.

  Each checkpoint that does not is reported in one line on standard error.

  Args:
    directories: one for each seed of a sweep, at least one.
    like: what each of them is to restore; see `restore`.
    set_aside: whether to move checkpoints that do not verify to set_aside/, and
      to remove what a crash has left: only for a process that continues the
      run. Stacked checkpoints of version 1 stay in their place.
    complain: returns from the index of a directory and a checkpoint's note why
      the run cannot continue from it, "" if it can. Such a checkpoint stays in
      its place.

  Returns:
    One pytree for each directory, or None if there is no such step.
  """
  if set_aside:
    for directory in directories:
      _set_aside_incomplete(directory)
  common = set.intersection(*(set(steps(x)) for x in directories))
  for step in sorted(common, reverse=True):
    restored = []
    for index, directory in enumerate(directories):
      path = directory / str(step)
      try:
        tree, note = _restore(directory, step, like)
      except CheckpointError as error:
        if set_aside and path.exists():
          _set_aside(path, str(error))
        else:
          print(f"warning: {error}; not used", file=sys.stderr)
        continue
      if complaint := complain(index, note):
        print(f"warning: {path} is not used: {complaint}", file=sys.stderr)
      else:
        restored.append(tree)
    if len(restored) == len(directories):
      return restored
  return None


def check_disk(directory: Path, each: int, count: int) -> None:
  """Checks that checkpoints can be saved, before a run begins.

  Args:
    directory: where the checkpoints will be; its parent exists.
    each: bytes of a checkpoint.
    count: how many are due. If they do not all fit, that is a warning.

  Raises:
    OSError: if a small checkpoint cannot be saved and restored, or there is not
      even room for a few checkpoints.
  """
  self_test(directory)
  free = shutil.disk_usage(directory).free

  def shortage(n: int) -> str:
    return (
      f"{directory}: {free / MIB:.3g} MiB are free, and {n} checkpoints need "
      f"{n * each / MIB:.3g} MiB"
    )

  few = min(count, MIN_CHECKPOINTS)
  if free < few * each:
    raise OSError(shortage(few))
  if free < count * each:
    print(f"warning: {shortage(count)}", file=sys.stderr)


def self_test(directory: Path) -> None:
  """Saves and restores a small checkpoint, so that no later save fails.

  Raises:
    OSError: if it cannot be written, or is not restored as it was.
  """
  path = directory / SELF_TEST
  tree = {"x": jnp.arange(256, dtype=jnp.float32), "key": jax.random.key(0)}
  directory.mkdir(exist_ok=True)
  shutil.rmtree(path, ignore_errors=True)
  try:
    save(path, 0, tree)
    restore(path, 0, tree)
  except CheckpointError as error:
    raise OSError(
      f"{directory} does not give back what is written to it: {error}"
    ) from error
  finally:
    shutil.rmtree(path, ignore_errors=True)


def _restore(directory: Path, step: int, like: PyTree) -> tuple[PyTree, Any]:
  """Restores a checkpoint and its note."""
  path, part = _locate(directory, step)
  plain = key_data(like)
  expected = checkpoint_format.kinds(checkpoint_format.named_leaves(plain))
  if part:
    expected = version_1.stacked_kinds(part, expected)
  leaves, note = checkpoint_format.read(path, expected)
  if part:
    leaves = version_1.take_row(part, leaves, set(expected))
    note = version_1.note_of_part(part, note)
  restored = jax.tree_util.tree_map_with_path(
    lambda at, _: leaves[checkpoint_format.leaf_name(at)], plain
  )
  return wrap_keys(like, _place_like(plain, restored)), note


def _locate(directory: Path, step: int) -> tuple[Path, version_1.Part | None]:
  """Where the checkpoint of a step is, and which part of it counts if any."""
  own = directory.absolute() / str(step)
  part = version_1.read_part(directory)
  if part is None or checkpoint_format.exists(own):
    return own, None
  return part.stacked / str(step), part


def _complete_steps(directory: Path) -> set[int]:
  if not directory.exists():
    return set()
  return {
    int(path.name)
    for path in directory.iterdir()
    if path.name.isdecimal()
    and path.name == str(int(path.name))
    and checkpoint_format.exists(path)
  }


def _tidy(directory: Path) -> None:
  """Removes what a save has left; puts back what it has not replaced."""
  for path in directory.glob(f"*{BEFORE}"):
    if checkpoint_format.exists(replacement := path.with_suffix("")):
      shutil.rmtree(path, ignore_errors=True)
    elif not replacement.exists():
      path.rename(replacement)
  for path in directory.glob(f"*{SAVING}*"):
    shutil.rmtree(path, ignore_errors=True)


def _set_aside_incomplete(directory: Path) -> None:
  if directory.exists():
    _tidy(directory)
    for path in directory.iterdir():
      if path.name.isdecimal() and not checkpoint_format.exists(path):
        _set_aside(path, f"{path} is not a complete checkpoint")


def _set_aside(path: Path, reason: str) -> None:
  aside = path.parent / SET_ASIDE
  aside.mkdir(exist_ok=True)
  taken = len(list(aside.glob(f"{path.name}*")))
  name = f"{path.name}.{taken}" if taken else path.name
  path.rename(aside / name)
  print(f"warning: {reason}; set aside as {aside / name}", file=sys.stderr)


def _place_like(like: PyTree, restored: PyTree) -> PyTree:
  """Moves arrays to the devices of `like`, committed only if those are.

  Otherwise every program would be compiled a second time when a run resumes.
  With several processes the arrays stay on the host.
  """
  if jax.process_count() > 1:
    return restored
  return jax.tree.map(
    lambda x, y: jax.device_put(y, x.sharding if x.committed else None),
    like,
    restored,
  )
