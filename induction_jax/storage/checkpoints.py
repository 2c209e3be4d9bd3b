"""Checkpoints of a pytree by step. The only module that imports orbax.

Orbax by itself gives back a flipped bit without a word, and casts one dtype to
another. So each checkpoint has a manifest with the name, shape, dtype and
checksum of every leaf (and file), and is given back only if all agree. It is
written beside its place and renamed once it and its manifest are on disk:

  <step>/         a checkpoint
  <step>.saving/  one that is being written, or what a crash has left of it
  <step>.before/  what it takes the place of, until it has
  set_aside/      those that could not be trusted

Saves return when the bytes are on disk, so an error belongs to the save that
made it.

Runs that are trained together are saved together, stacked; a directory of
`link` then stands for the part of one of them.
"""

import errno
import json
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from induction_jax.config import ConfigError
from induction_jax.devices.keys import key_data, wrap_keys
from induction_jax.devices.limits import check_fits
from induction_jax.storage import manifest
from induction_jax.storage.documents import (
  check_inside,
  check_tree,
  read_object,
)
from induction_jax.storage.files import force_to_disk, replace_text
from induction_jax.storage.manifest import CheckpointError
from induction_jax.types import PyTree

SAVING, BEFORE = ".saving", ".before"
SET_ASIDE = "set_aside"
SELF_TEST = "self_test"
# What a leaf takes besides its numbers, and a checkpoint besides its leaves.
LEAF_BYTES, FILES_BYTES = 2**12, 2**16


class Part(NamedTuple):
  """One of many runs whose checkpoints are stacked."""

  stacked: Path  # directory of their checkpoints
  row: int  # of the leading axis of every leaf
  rows: int  # of that axis


def save(directory: Path, step: int, tree: PyTree, note: Any = None) -> None:
  """Saves a pytree of arrays and typed keys under `directory`/step.

  It takes the place of an earlier one of that step, which is there until it
  does. The directory above must exist: if it is gone, so is the run. A note, of
  JSON, is kept with it.

  Raises:
    OSError: if it cannot be written; earlier checkpoints stay.
  """
  path = directory.absolute() / str(step)
  partial = path.with_name(path.name + SAVING)
  try:
    directory.mkdir(exist_ok=True)
    _settle(directory)
    place = directory.stat().st_ino
    # Orbax would say so too, but in a hundred lines from several threads.
    if shutil.disk_usage(directory).free < room_for(tree):
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with _silent(), _checkpointer() as checkpointer:
      checkpointer.save(partial, _own(key_data(tree)))
    manifest.write(partial, step, key_data(tree), note)
    for below in partial.rglob("*"):
      force_to_disk(below)
    if directory.stat().st_ino != place:  # orbax has made it again
      raise OSError(errno.ENOENT, "its directory has gone")
    if path.exists():
      path.rename(path.with_name(path.name + BEFORE))
    partial.rename(path)
    force_to_disk(directory)
    _settle(directory)
  except Exception as error:  # orbax has no one type for a failed write
    _settle(directory)
    kept = ", ".join(map(str, steps(directory))) or "none"
    raise OSError(
      f"checkpoint {path} was not saved ({_reason(error)}); saved before it: "
      f"steps {kept}"
    ) from error


def room_for(tree: PyTree) -> int:
  """Bytes that a checkpoint of a pytree of arrays takes, at most."""
  leaves = jax.tree.leaves(tree)
  return sum(x.nbytes for x in leaves) + LEAF_BYTES * len(leaves) + FILES_BYTES


def link(directory: Path, part: Part) -> None:
  """Lets a directory give, beside its own checkpoints, a part of others."""
  directory.mkdir(parents=True, exist_ok=True)
  # Relative, so that the directory above both can be moved.
  stacked = os.path.relpath(part.stacked, directory)
  values = part._asdict() | {"stacked": stacked}
  replace_text(directory / "part.json", json.dumps(values) + "\n")


def steps(directory: Path) -> list[int]:
  """Steps with a whole checkpoint, ascending; restoring verifies it."""
  part = _part(directory)
  others = _own_steps(part.stacked) if part else set()
  return sorted(_own_steps(directory) | others)


def restore(directory: Path, step: int, like: PyTree) -> PyTree:
  """Restores the checkpoint of a step, and verifies every bit of it.

  Args:
    directory: where the checkpoints are.
    step: one of steps(directory).
    like: a pytree with the structure, shapes, dtypes and key types expected.

  Raises:
    CheckpointError: if names, shapes or dtypes differ from those of `like`, or
      anything from what was saved.
  """
  return _restore(directory, step, like)[0]


def restore_newest(
  directory: Path,
  like: PyTree,
  set_aside: bool,
  complain: Callable[[Any], str] = lambda note: "",
) -> PyTree | None:
  """The newest checkpoint that can be trusted; None if there is none.

  Of each that cannot one line says so on standard error.

  Args:
    directory: where the checkpoints are.
    like: as of restore.
    set_aside: whether those are moved out of the way, to set_aside/, with
      whatever else is no checkpoint: only for whoever goes on with the run.
      Those of stacked runs are left where they are.
    complain: note of a checkpoint -> what speaks against going on from it, ""
      if nothing does. It is left where it is, for it may be sound.
  """
  if set_aside and directory.exists():
    _settle(directory)
    for path in directory.iterdir():
      if path.name.isdecimal() and not manifest.exists(path):
        told = f"{path} is no whole checkpoint"
        _set_aside(directory, path, told)
  for step in reversed(steps(directory)):
    path = directory / str(step)
    try:
      restored, note = _restore(directory, step, like)
      if not (complaint := complain(note)):
        return restored
      print(f"warning: {path} is not used: {complaint}", file=sys.stderr)
    except CheckpointError as error:
      if set_aside and path.exists():
        _set_aside(directory, path, str(error))
      else:
        print(f"warning: {error}; not used", file=sys.stderr)
  return None


def whole(directory: Path, steps: Iterable[int]) -> Iterator[int]:
  """Those steps whose checkpoint's files are what was saved, as asked for.

  Of each other one line says so on standard error.
  """
  for step in steps:
    part = _part_of(directory, step)
    try:
      manifest.read((part.stacked if part else directory) / str(step))
      yield step
    except CheckpointError as error:
      print(f"warning: {error}; not used", file=sys.stderr)


def self_test(directory: Path) -> None:
  """Writes a small checkpoint and reads it back, so that none fails later.

  Raises:
    OSError: if it cannot be written, or does not come back as it was.
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
  """What `restore` gives, and the note kept with it: None with a part."""
  if part := _part_of(directory, step):
    return _restore_part(part, step, like), None
  path = directory.absolute() / str(step)
  plain = key_data(like)
  saved = manifest.read(path)
  manifest.check_kinds(path, manifest.kinds(saved), plain)
  restored = _read_leaves(path, plain)
  manifest.check_bits(path, saved, restored)
  return wrap_keys(like, _place_like(plain, restored)), saved.note


def _part_of(directory: Path, step: int) -> Part | None:
  """The part that stands for a step's checkpoint, None if it has its own."""
  part = _part(directory)
  return None if part and step in _own_steps(directory) else part


def _own_steps(directory: Path) -> set[int]:
  if not directory.exists():
    return set()
  return {
    int(path.name)
    for path in directory.iterdir()
    if path.name.isdecimal()
    and path.name == str(int(path.name))
    and manifest.exists(path)
  }


def _settle(directory: Path) -> None:
  """Removes what a save has left, and puts back what it has not replaced."""
  for path in directory.glob(f"*{BEFORE}"):
    if manifest.exists(own := path.with_suffix("")):
      shutil.rmtree(path, ignore_errors=True)
    elif not own.exists():
      path.rename(own)
  for path in directory.glob(f"*{SAVING}*"):
    shutil.rmtree(path, ignore_errors=True)


def _set_aside(directory: Path, path: Path, reason: str) -> None:
  aside = directory / SET_ASIDE
  aside.mkdir(exist_ok=True)
  taken = len(list(aside.glob(f"{path.name}*")))
  name = f"{path.name}.{taken}" if taken else path.name
  path.rename(aside / name)
  print(f"warning: {reason}; set aside as {aside / name}", file=sys.stderr)


def _part(directory: Path) -> Part | None:
  path = directory / "part.json"
  if not path.exists():
    return None
  values = read_object(path, stacked=str, row=int, rows=int)
  part = Part(*(values[name] for name in Part._fields))
  if part.row >= part.rows:
    raise ConfigError(f"{path}: row must be below rows, got {part.row}")
  stacked = directory / part.stacked
  check_inside(stacked, directory.parent.parent)  # of the sweep
  if stacked.exists():
    check_tree(stacked)
  return part._replace(stacked=stacked)


def _restore_part(part: Part, step: int, like: PyTree) -> PyTree:
  check_fits(f"{part.stacked}, {part.rows} rows,", part.rows * room_for(like))
  all_like = jax.tree.map(
    lambda x: jnp.broadcast_to(x, (part.rows, *x.shape)), like
  )
  restored = restore(part.stacked, step, all_like)
  return jax.tree.map(lambda x: x[part.row], restored)


def _checkpointer() -> ocp.StandardCheckpointer:
  """One that waits for no other process: they leave all this to one."""
  if jax.process_count() == 1:
    return ocp.StandardCheckpointer()
  own = jax.process_index()
  return ocp.StandardCheckpointer(
    multiprocessing_options=ocp.options.MultiprocessingOptions(
      primary_host=own, active_processes={own}, barrier_sync_key_prefix="own"
    )
  )


def _own(tree: PyTree) -> PyTree:
  """Arrays on the host where there are more processes than this.

  Orbax refuses any that are on devices and yet not on those of all.
  """
  if jax.process_count() == 1:
    return tree
  return jax.tree.map(np.asarray, tree)


def _read_leaves(path: Path, like: PyTree) -> PyTree:
  """What orbax finds in a checkpoint, checked but for the values: on the host.

  It would commit arrays to devices, whether those of `like` are or not.
  """
  abstract = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like)
  try:
    with _silent(), _checkpointer() as checkpointer:
      stored = checkpointer.metadata(path).item_metadata.tree
      manifest.check_kinds(path, manifest.kinds_of(stored), like)
      return checkpointer.restore(path, abstract)
  except CheckpointError:
    raise
  except Exception as error:  # whatever orbax makes of what it finds
    raise CheckpointError(
      f"checkpoint {path} is damaged (it cannot be read: {_reason(error)})"
    ) from error


@contextmanager
def _silent() -> Iterator[None]:
  """Keeps orbax from printing the traceback of what is raised anyway."""
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
  """What went wrong, without the list of all that was going on."""
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  line = (str(error).strip() or repr(error)).splitlines()[0]
  return line.rpartition(": ")[2][:200]


def _place_like(like: PyTree, restored: PyTree) -> PyTree:
  """Where the arrays of `like` are, committed to devices only if these are.

  Else a run that goes on would compile every program a second time. What is of
  more processes than this is left on the host, as it was for the save.
  """
  if jax.process_count() > 1:
    return restored
  return jax.tree.map(
    lambda x, y: jax.device_put(y, x.sharding if x.committed else None),
    like,
    restored,
  )
