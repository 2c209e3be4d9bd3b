"""What a checkpoint holds to the bit: the manifest beside its arrays.

It names every file with its checksum, so that damage is found before orbax
reads it (and fails in a hundred lines, or not at all), and every leaf with its
shape, dtype and checksum, so that what orbax gives back is what was saved.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from induction_jax.config import ConfigError
from induction_jax.storage.documents import check_inside, read_object
from induction_jax.storage.files import replace_text
from induction_jax.types import Array, PyTree

NAME = "manifest.json"


class Manifest(NamedTuple):
  """Checksums of a checkpoint.

  Attributes:
    step: of the checkpoint.
    files: the checksum of each file, by its path below the checkpoint.
    leaves: shape, dtype and checksum of each leaf, by its name.
    note: what the owner wants to know again of what lies beside it.
  """

  step: int
  files: dict[str, str]
  leaves: dict[str, dict[str, Any]]
  note: Any = None


class CheckpointError(ConfigError):
  """A checkpoint that cannot be trusted, or is of something else."""


def exists(checkpoint: Path) -> bool:
  """Whether a checkpoint has one, without which it is none."""
  return (checkpoint / NAME).is_file()


def write(checkpoint: Path, step: int, tree: PyTree, note: Any = None) -> None:
  """Writes the manifest of a pytree of arrays and of the files it is in."""
  files = {
    str(path.relative_to(checkpoint)): _checksum_of_file(path)
    for path in sorted(checkpoint.rglob("*"))
    if path.is_file()
  }
  manifest = Manifest(step, files, _describe(tree), note)
  text = json.dumps(manifest._asdict(), indent=1) + "\n"
  replace_text(checkpoint / NAME, text)


def read(checkpoint: Path) -> Manifest:
  """Reads a manifest, and verifies every file that it names.

  Raises:
    CheckpointError: if it is not what `write` writes for this step, or a file
      is not what it was.
  """
  try:
    manifest = Manifest(**read_object(checkpoint / NAME))
    if str(manifest.step) != checkpoint.name:
      raise ValueError(f"it is of step {manifest.step}")
    kinds(manifest)
    for name, checksum in manifest.files.items():
      check_inside(checkpoint / name, checkpoint)
      if _checksum_of_file(checkpoint / name) != checksum:
        raise ValueError(f"{name} is not what was saved")
  except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
    raise CheckpointError(
      f"checkpoint {checkpoint} is damaged ({error})"
    ) from error
  return manifest


def kinds(manifest: Manifest) -> dict[str, str]:
  """Dtype and shape of every leaf that a manifest names."""
  return {
    name: f"{leaf['dtype']}{leaf['shape']}"
    for name, leaf in manifest.leaves.items()
  }


def kinds_of(tree: PyTree) -> dict[str, str]:
  """The same of a pytree of arrays, or of what stands for them."""
  return {
    name: f"{leaf.dtype}{list(leaf.shape)}"
    for name, leaf in _named(tree).items()
  }


def check_kinds(checkpoint: Path, got: dict[str, str], like: PyTree) -> None:
  """Compares names, dtypes and shapes with those of a pytree.

  Raises:
    CheckpointError: with the first that differs.
  """
  expected = kinds_of(like)
  for name in sorted({*got, *expected}):
    if got.get(name) != expected.get(name):
      raise CheckpointError(
        f"checkpoint {checkpoint}: {name} must be "
        f"{expected.get(name, 'absent')}, got {got.get(name, 'nothing')}"
      )


def check_bits(checkpoint: Path, manifest: Manifest, tree: PyTree) -> None:
  """Compares every bit with what was saved, by checksums.

  Raises:
    CheckpointError: with the first leaf that differs.
  """
  for name, leaf in _describe(tree).items():
    if leaf != manifest.leaves[name]:
      raise CheckpointError(
        f"checkpoint {checkpoint} is damaged ({name} is not what was saved)"
      )


def _describe(tree: PyTree) -> dict[str, dict[str, Any]]:
  return {
    name: {
      "shape": list(leaf.shape),
      "dtype": str(leaf.dtype),
      "blake2b": _checksum(leaf),
    }
    for name, leaf in _named(tree).items()
  }


def _checksum(leaf: Array) -> str:
  data = np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data
  return hashlib.blake2b(data, digest_size=16).hexdigest()


def _checksum_of_file(path: Path) -> str:
  with path.open("rb") as file:
    digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))
    return digest.hexdigest()


def _named(tree: PyTree) -> dict[str, Any]:
  """Leaves by a name that orbax does not change."""
  return {
    jax.tree_util.keystr(path, simple=True, separator="."): leaf
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
  }
