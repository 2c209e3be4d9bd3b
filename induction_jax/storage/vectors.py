"""Eigenvectors kept for later, one file a measurement, beside the checkpoints.

A file holds named float32 arrays, 4 bytes for each of its numbers: 2 k P for k
eigenvectors at both ends. It is a numpy archive, read without pickle.
"""

from pathlib import Path

import numpy as np

from induction_jax.storage.files import replacing
from induction_jax.types import Array


def write(directory: Path, step: int, arrays: dict[str, Array]) -> None:
  """Writes directory/<step>.npz whole, then renames it into place."""
  directory.mkdir(parents=True, exist_ok=True)
  narrow = {name: np.asarray(x, np.float32) for name, x in arrays.items()}
  with replacing(_path(directory, step)) as partial, partial.open("wb") as file:
    np.savez(file, allow_pickle=False, **narrow)


def read(directory: Path, step: int) -> dict[str, np.ndarray]:
  """The arrays kept at a step, by `end.parameter`, each [k, ...].

  Raises:
    FileNotFoundError: if none were kept.
  """
  with np.load(_path(directory, step), allow_pickle=False) as arrays:
    return dict(arrays)


def _path(directory: Path, step: int) -> Path:
  return directory / f"{step:08d}.npz"
