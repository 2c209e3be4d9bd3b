"""One checkpoint: an array of bytes by orbax, and a manifest that verifies it.

Orbax restores a flipped bit silently and casts one dtype to another. So the
manifest gives the checksum of every file, which is compared before anything
parses the file, and the dtype, shape and checksum of every leaf, which are
compared with what orbax returns. The leaves are packed into one array of bytes,
in the order of the manifest: orbax takes as long for each array as for a
megabyte of one. This is the only module that imports orbax.
"""

import hashlib
import json
import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from induction_jax.config import ConfigError
from induction_jax.devices.limits import check_fits
from induction_jax.storage.files import check_inside, read_object
from induction_jax.types import PyTree

MANIFEST = "manifest.json"
PACKED = "leaves"  # orbax's name for the array
VERSION = 2

Leaves = dict[str, np.ndarray]


class CheckpointError(ConfigError):
  """A checkpoint that is damaged or does not fit the run."""


class Manifest(NamedTuple):
  """Checksums and description of a checkpoint.

  Attributes:
    step: the training step that was saved.
    files: checksum of each file, by its path below the checkpoint.
    leaves: dtype, shape and checksum of each leaf, by its name.
    note: JSON that the caller of `save` wants back with the checkpoint.
    version: of the format; version_1.py describes the earlier one.
  """

  step: int
  files: dict[str, str]
  leaves: dict[str, dict[str, Any]]
  note: Any = None
  version: int = 1  # manifests of version 1 do not name it


def write(checkpoint: Path, step: int, leaves: Leaves, note: Any) -> None:
  """Writes a checkpoint, which is not yet forced to disk.

  Raises:
    OSError: if it cannot be written.
  """
  packed = np.concatenate([_as_bytes(leaf) for leaf in leaves.values()])
  try:
    with _quiet(), _checkpointer() as checkpointer:
      checkpointer.save(checkpoint, {PACKED: packed})
  except Exception as error:  # orbax has no one type for a failed write
    raise OSError(_cause(error)) from error
  write_manifest(checkpoint, step, leaves, note)


def read(checkpoint: Path, expected: Mapping[str, str]) -> tuple[Leaves, Any]:
  """Reads the leaves and the note of a checkpoint and verifies every bit.

  Args:
    checkpoint: its directory.
    expected: dtype and shape, as from `kinds`, of leaves that it must have.

  Raises:
    CheckpointError: if such a leaf is missing or differs, or anything is not
      what was saved.
  """
  manifest = read_manifest(checkpoint)
  saved = _saved_kinds(manifest)
  _check_kinds(checkpoint, saved, expected)
  if manifest.version == 1:
    leaves = _read_arrays(checkpoint, saved)
  else:
    size = _total_bytes(manifest)
    arrays = _read_arrays(checkpoint, {PACKED: f"uint8[{size}]"})
    leaves = _unpack(manifest, arrays[PACKED])
  found = _describe(leaves)
  for name, leaf in manifest.leaves.items():
    if leaf != found.get(name):
      raise CheckpointError(
        f"checkpoint {checkpoint} is damaged ({name} is not what was saved)"
      )
  return leaves, manifest.note


def exists(checkpoint: Path) -> bool:
  """Whether a checkpoint has a manifest: without one it is incomplete."""
  return (checkpoint / MANIFEST).is_file()


def write_manifest(
  checkpoint: Path, step: int, leaves: Leaves, note: Any
) -> None:
  """Writes the manifest of some leaves and of the files that hold them."""
  files = {
    str(path.relative_to(checkpoint)): _checksum_of_file(path)
    for path in sorted(checkpoint.rglob("*"))
    if path.is_file()
  }
  manifest = Manifest(step, files, _describe(leaves), note, VERSION)
  text = json.dumps(manifest._asdict(), indent=1) + "\n"
  (checkpoint / MANIFEST).write_text(text, encoding="utf-8")


def read_manifest(checkpoint: Path) -> Manifest:
  """Reads a manifest and verifies every file that it names.

  Raises:
    CheckpointError: if the manifest is damaged or belongs to another step, or
      a file is not what was saved.
  """
  try:
    manifest = Manifest(**read_object(checkpoint / MANIFEST))
    if str(manifest.step) != checkpoint.name:
      raise ValueError(f"its manifest is for step {manifest.step}")
    if manifest.version not in (1, VERSION):
      raise ValueError(f"its format has the unknown version {manifest.version}")
    check_fits("its leaves", _total_bytes(manifest))
    for name, checksum in manifest.files.items():
      check_inside(checkpoint / name, checkpoint)
      if _checksum_of_file(checkpoint / name) != checksum:
        raise ValueError(f"{name} is not what was saved")
  except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
    raise CheckpointError(
      f"checkpoint {checkpoint} is damaged ({error})"
    ) from error
  return manifest


def kinds(leaves: Mapping[str, Any]) -> dict[str, str]:
  """Dtype and shape of each leaf: of arrays, or of what describes arrays."""
  return {
    name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in leaves.items()
  }


def named_leaves(tree: PyTree) -> dict[str, Any]:
  """The leaves of a pytree by their path, such as `state.params.w_q`."""
  return {
    leaf_name(path): leaf
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
  }


def leaf_name(path: tuple[Any, ...]) -> str:
  return jax.tree_util.keystr(path, simple=True, separator=".")


def _read_arrays(checkpoint: Path, expected: Mapping[str, str]) -> Leaves:
  """Reads the arrays that orbax has in a checkpoint, to the host.

  Their names, dtypes and shapes are checked before they are read.
  """
  try:
    with _quiet(), _checkpointer() as checkpointer:
      stored = checkpointer.metadata(checkpoint).item_metadata.tree
      found = kinds(named_leaves(stored))
      _check_kinds(checkpoint, found, expected)
      if extra := sorted(found.keys() - expected.keys()):
        raise ValueError(f"it has an array {extra[0]} of unknown origin")
      as_numpy = jax.tree.map(
        lambda _: ocp.RestoreArgs(restore_type=np.ndarray), stored
      )
      arrays = checkpointer.restore(checkpoint, restore_args=as_numpy)
      return named_leaves(arrays)
  except CheckpointError:
    raise
  except Exception as error:  # orbax has no one type for a failed read
    raise CheckpointError(
      f"checkpoint {checkpoint} is damaged (it cannot be read: {_cause(error)})"
    ) from error


def _unpack(manifest: Manifest, packed: np.ndarray) -> Leaves:
  """Splits an array of bytes into the leaves that a manifest describes."""
  leaves, end = {}, 0
  for name, leaf in manifest.leaves.items():
    dtype, shape, size = _layout(leaf)
    start, end = end, end + size
    # Copied, so that every leaf begins at an aligned address.
    leaves[name] = packed[start:end].copy().view(dtype).reshape(shape)
  return leaves


def _saved_kinds(manifest: Manifest) -> dict[str, str]:
  """Dtype and shape of each leaf that a manifest names."""
  return {
    name: f"{leaf['dtype']}{leaf['shape']}"
    for name, leaf in manifest.leaves.items()
  }


def _check_kinds(
  checkpoint: Path, got: Mapping[str, str], expected: Mapping[str, str]
) -> None:
  """Checks that every expected leaf is there with its dtype and shape."""
  for name, kind in expected.items():
    if got.get(name) != kind:
      raise CheckpointError(
        f"checkpoint {checkpoint}: {name} must be {kind}, got "
        f"{got.get(name, 'nothing')}"
      )


def _total_bytes(manifest: Manifest) -> int:
  """Bytes that all leaves take in memory."""
  return sum(_layout(leaf)[2] for leaf in manifest.leaves.values())


def _describe(leaves: Leaves) -> dict[str, dict[str, Any]]:
  return {
    name: {
      "shape": list(leaf.shape),
      "dtype": str(leaf.dtype),
      "blake2b": _checksum(_as_bytes(leaf)),
    }
    for name, leaf in leaves.items()
  }


def _layout(leaf: Mapping[str, Any]) -> tuple[np.dtype, tuple[int, ...], int]:
  """Dtype, shape and number of bytes of a leaf that a manifest describes."""
  dtype, shape = np.dtype(leaf["dtype"]), tuple(leaf["shape"])
  if dtype.hasobject or any(type(n) is not int or n < 0 for n in shape):
    raise ValueError(f"no array is {leaf['dtype']}{leaf['shape']}")
  return dtype, shape, dtype.itemsize * math.prod(shape)


def _as_bytes(leaf: np.ndarray) -> np.ndarray:
  return np.ascontiguousarray(leaf).reshape(-1).view(np.uint8)


def _checksum(data: np.ndarray) -> str:
  return hashlib.blake2b(data.data, digest_size=16).hexdigest()


def _checksum_of_file(path: Path) -> str:
  with path.open("rb") as file:
    digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))
    return digest.hexdigest()


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


def _cause(error: Exception) -> str:
  """The cause in one line, without orbax's list of pending operations."""
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  line = (str(error).strip() or repr(error)).splitlines()[0]
  return line.rpartition(": ")[2][:200]
