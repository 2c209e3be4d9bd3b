"""Checkpoints of a pytree by step. The only module that imports orbax.

Orbax restores a flipped bit silently and casts one dtype to another. So every
checkpoint has a manifest (manifest.py) with a checksum of every file and every
leaf, and is restored only if all of them agree. All leaves are packed into one
array of bytes: orbax takes as long for each array as for a megabyte of one. A
checkpoint is written beside its place, forced to disk and then renamed:

  <step>/         a complete checkpoint
  <step>.saving/  one that is being written, or that a crash has cut off
  <step>.before/  an earlier checkpoint of the step, until it is replaced
  set_aside/      checkpoints that were damaged or did not fit the run

`save` returns when the bytes are on disk, so a failed write is an error of the
save that made it.
"""

import errno
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from induction_jax.devices.keys import key_data, wrap_keys
from induction_jax.storage import manifest, version_1
from induction_jax.storage.files import force_to_disk
from induction_jax.storage.manifest import CheckpointError, Leaves, Manifest
from induction_jax.types import PyTree

SAVING, BEFORE = ".saving", ".before"
SET_ASIDE = "set_aside"
SELF_TEST = "self_test"
PACKED = "leaves"  # orbax's name for the one array
# What the manifest takes for each leaf, and a checkpoint besides its leaves.
LEAF_BYTES, FILES_BYTES = 2**10, 2**16


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
    leaves = manifest.named_leaves(jax.device_get(key_data(tree)))
    with _quiet(), _checkpointer() as checkpointer:
      checkpointer.save(partial, {PACKED: manifest.pack(leaves)})
    manifest.write(partial, step, leaves, note)
    for below in [*partial.rglob("*"), partial]:
      force_to_disk(below)
    if directory.stat().st_ino != inode:  # orbax has made it anew
      raise OSError(errno.ENOENT, "its directory has gone")
    if path.exists():
      path.rename(path.with_name(path.name + BEFORE))
    partial.rename(path)
    force_to_disk(directory)
    _tidy(directory)
  except Exception as error:  # orbax has no one type for a failed write
    _tidy(directory)
    kept = ", ".join(map(str, steps(directory))) or "none"
    raise OSError(
      f"checkpoint {path} was not saved ({_reason(error)}); saved before it: "
      f"steps {kept}"
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
      manifest.read(_locate(directory, step)[0])
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
  expected = manifest.kinds(manifest.named_leaves(plain))
  if part:
    expected = version_1.stacked_kinds(part, expected)
  saved = manifest.read(path)
  manifest.check_kinds(path, manifest.saved_kinds(saved), expected)
  leaves, note = _read_leaves(path, saved), saved.note
  if part:
    leaves = version_1.take_row(part, leaves, set(expected))
    note = version_1.note_of_part(part, note)
  restored = jax.tree_util.tree_map_with_path(
    lambda at, _: leaves[manifest.leaf_name(at)], plain
  )
  return wrap_keys(like, _place_like(plain, restored)), note


def _locate(directory: Path, step: int) -> tuple[Path, version_1.Part | None]:
  """Where the checkpoint of a step is, and which part of it counts if any."""
  own = directory.absolute() / str(step)
  part = version_1.read_part(directory)
  if part is None or manifest.exists(own):
    return own, None
  return part.stacked / str(step), part


def _read_leaves(path: Path, saved: Manifest) -> Leaves:
  """Reads a checkpoint's leaves and verifies every bit of them."""
  if saved.version == 1:
    leaves = _read_arrays(path, manifest.saved_kinds(saved))
  else:
    size = manifest.total_bytes(saved)
    packed = _read_arrays(path, {PACKED: f"uint8[{size}]"})[PACKED]
    leaves = manifest.unpack(saved, packed)
  manifest.check_bits(path, saved, leaves)
  return leaves


def _read_arrays(path: Path, kinds: dict[str, str]) -> Leaves:
  """Reads the arrays that orbax has in a checkpoint, to the host.

  Their names, dtypes and shapes are checked before they are read.
  """
  try:
    with _quiet(), _checkpointer() as checkpointer:
      stored = checkpointer.metadata(path).item_metadata.tree
      found = manifest.kinds(manifest.named_leaves(stored))
      manifest.check_kinds(path, found, kinds)
      as_numpy = jax.tree.map(
        lambda _: ocp.RestoreArgs(restore_type=np.ndarray), stored
      )
      arrays = checkpointer.restore(path, restore_args=as_numpy)
      return manifest.named_leaves(arrays)
  except CheckpointError:
    raise
  except Exception as error:  # orbax has no one type for a failed read
    raise CheckpointError(
      f"checkpoint {path} is damaged (it cannot be read: {_reason(error)})"
    ) from error


def _complete_steps(directory: Path) -> set[int]:
  if not directory.exists():
    return set()
  return {
    int(path.name)
    for path in directory.iterdir()
    if path.name.isdecimal()
    and path.name == str(int(path.name))
    and manifest.exists(path)
  }


def _tidy(directory: Path) -> None:
  """Removes what a save has left; puts back what it has not replaced."""
  for path in directory.glob(f"*{BEFORE}"):
    if manifest.exists(replacement := path.with_suffix("")):
      shutil.rmtree(path, ignore_errors=True)
    elif not replacement.exists():
      path.rename(replacement)
  for path in directory.glob(f"*{SAVING}*"):
    shutil.rmtree(path, ignore_errors=True)


def _set_aside_incomplete(directory: Path) -> None:
  if directory.exists():
    _tidy(directory)
    for path in directory.iterdir():
      if path.name.isdecimal() and not manifest.exists(path):
        _set_aside(path, f"{path} is not a complete checkpoint")


def _set_aside(path: Path, reason: str) -> None:
  aside = path.parent / SET_ASIDE
  aside.mkdir(exist_ok=True)
  taken = len(list(aside.glob(f"{path.name}*")))
  name = f"{path.name}.{taken}" if taken else path.name
  path.rename(aside / name)
  print(f"warning: {reason}; set aside as {aside / name}", file=sys.stderr)


def _checkpointer() -> ocp.Checkpointer:
  """A checkpointer that waits for no other process: one process saves alone."""
  options = ocp.options.MultiprocessingOptions()
  if jax.process_count() > 1:
    own = jax.process_index()
    options = ocp.options.MultiprocessingOptions(
      primary_host=own, active_processes={own}, barrier_sync_key_prefix="own"
    )
  # OCDBT would put one array into five files and force none of them to disk.
  handler = ocp.PyTreeCheckpointHandler(
    use_ocdbt=False, multiprocessing_options=options
  )
  return ocp.Checkpointer(handler, multiprocessing_options=options)


@contextmanager
def _quiet() -> Iterator[None]:
  """Keeps orbax from logging the traceback of an error that is raised too."""
  loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
  levels = [logger.level for logger in loggers]
  for logger in loggers:
    logger.setLevel(logging.CRITICAL)
  try:
    yield
  finally:
    for logger, level in zip(loggers, levels):
      logger.setLevel(level)


def _reason(error: Exception) -> str:
  """The cause in one line, without orbax's list of pending operations."""
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  line = (str(error).strip() or repr(error)).splitlines()[0]
  return line.rpartition(": ")[2][:200]


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
