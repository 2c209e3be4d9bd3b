"""The manifest of a checkpoint: what every bit of it must be.

A checkpoint holds one array of bytes: the leaves of a pytree one after another,
in the order of the manifest. The manifest gives the checksum of every file, so
that damage is found before anything parses the file, and the dtype, shape and
checksum of every leaf, so that what is restored is what was saved.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from induction_jax.config import ConfigError
from induction_jax.devices.limits import check_fits
from induction_jax.storage.documents import check_inside, read_object
from induction_jax.types import PyTree

NAME = "manifest.json"
VERSION = 2

Leaves = dict[str, np.ndarray]


class Manifest(NamedTuple):
  """Checksums and description of a checkpoint.

  Attributes:
    step: the training step that was saved.
    files: checksum of each file, by its path below the checkpoint.
    leaves: dtype, shape and checksum of each leaf, by its name.
    note: JSON that the caller of `save` wants back with the checkpoint.
    version: of the format; see version_1.py for the earlier one.
  """

  step: int
  files: dict[str, str]
  leaves: dict[str, dict[str, Any]]
  note: Any = None
  version: int = 1  # manifests of version 1 do not name it


class CheckpointError(ConfigError):
  """A checkpoint that is damaged or does not fit the run."""


def exists(checkpoint: Path) -> bool:
  """Whether a checkpoint has a manifest: without one it is incomplete."""
  return (checkpoint / NAME).is_file()


def write(checkpoint: Path, step: int, leaves: Leaves, note: Any) -> None:
  """Writes the manifest of leaves and of the files that they were saved in."""
  files = {
    str(path.relative_to(checkpoint)): _checksum_of_file(path)
    for path in sorted(checkpoint.rglob("*"))
    if path.is_file()
  }
  manifest = Manifest(step, files, _describe(leaves), note, VERSION)
  text = json.dumps(manifest._asdict(), indent=1) + "\n"
  (checkpoint / NAME).write_text(text, encoding="utf-8")


def read(checkpoint: Path) -> Manifest:
  """Reads a manifest and verifies every file that it names.

  Raises:
    CheckpointError: if the manifest is damaged or belongs to another step, or
      a file is not what was saved.
  """
  try:
    manifest = Manifest(**read_object(checkpoint / NAME))
    if str(manifest.step) != checkpoint.name:
      raise ValueError(f"its manifest is for step {manifest.step}")
    if manifest.version not in (1, VERSION):
      raise ValueError(f"its format has the unknown version {manifest.version}")
    check_fits("its leaves", total_bytes(manifest))
    for name, checksum in manifest.files.items():
      check_inside(checkpoint / name, checkpoint)
      if _checksum_of_file(checkpoint / name) != checksum:
        raise ValueError(f"{name} is not what was saved")
  except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
    raise CheckpointError(
      f"checkpoint {checkpoint} is damaged ({error})"
    ) from error
  return manifest


def total_bytes(manifest: Manifest) -> int:
  """Bytes that all leaves take in memory."""
  return sum(_layout(leaf)[2] for leaf in manifest.leaves.values())


def kinds(leaves: Mapping[str, Any]) -> dict[str, str]:
  """Dtype and shape of each leaf: of arrays, or of what describes arrays."""
  return {
    name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in leaves.items()
  }


def saved_kinds(manifest: Manifest) -> dict[str, str]:
  """Dtype and shape of each leaf that a manifest names."""
  return {
    name: f"{leaf['dtype']}{leaf['shape']}"
    for name, leaf in manifest.leaves.items()
  }


def check_kinds(
  checkpoint: Path, got: Mapping[str, str], expected: Mapping[str, str]
) -> None:
  """Checks that every expected leaf is there with its dtype and shape.

  Raises:
    CheckpointError: names the first leaf that is missing or differs.
  """
  for name, kind in expected.items():
    if got.get(name) != kind:
      raise CheckpointError(
        f"checkpoint {checkpoint}: {name} must be {kind}, got "
        f"{got.get(name, 'nothing')}"
      )


def check_bits(checkpoint: Path, manifest: Manifest, leaves: Leaves) -> None:
  """Compares every bit of every leaf with what was saved, by checksums.

  Raises:
    CheckpointError: names the first leaf that differs.
  """
  found = _describe(leaves)
  for name, leaf in manifest.leaves.items():
    if leaf != found.get(name):
      raise CheckpointError(
        f"checkpoint {checkpoint} is damaged ({name} is not what was saved)"
      )


def pack(leaves: Leaves) -> np.ndarray:
  """Joins the bytes of all leaves, in their order, to one array."""
  return np.concatenate([_as_bytes(leaf) for leaf in leaves.values()])


def unpack(manifest: Manifest, packed: np.ndarray) -> Leaves:
  """Splits what `pack` joined into the leaves that a manifest describes."""
  leaves, end = {}, 0
  for name, leaf in manifest.leaves.items():
    dtype, shape, size = _layout(leaf)
    start, end = end, end + size
    # Copied, so that every leaf begins at an aligned address.
    leaves[name] = packed[start:end].copy().view(dtype).reshape(shape)
  return leaves


def named_leaves(tree: PyTree) -> dict[str, Any]:
  """The leaves of a pytree by their path, such as `state.params.w_q`."""
  return {
    leaf_name(path): leaf
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
  }


def leaf_name(path: tuple[Any, ...]) -> str:
  return jax.tree_util.keystr(path, simple=True, separator=".")


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
