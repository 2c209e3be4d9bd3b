"""Eigenvectors kept for later, one file a measurement, beside the checkpoints.

A file holds named float32 arrays, 4 bytes for each of its numbers: 2 k P for k
eigenvectors at both ends. It is a numpy archive, read without pickle.
"""

import zipfile
from pathlib import Path
from typing import Literal

import numpy as np

from induction_jax.config import ConfigError
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
    ConfigError: if the file is no such archive.
  """
  path = _path(directory, step)
  try:
    with zipfile.ZipFile(path) as archive:
      members = archive.infolist()
      if sum(member.file_size for member in members) > path.stat().st_size:
        raise ValueError("its parts are larger than the whole")
      return {
        member.filename.removesuffix(".npy"): _read_array(archive, member)
        for member in members
      }
  except OSError:
    raise
  except Exception as error:  # whatever a damaged archive makes of zipfile
    raise ConfigError(f"{path} holds no eigenvectors: {error}") from error


def count(directory: Path, end: int) -> int:
  """How many measurements before a step have some kept."""
  steps = (path.stem for path in directory.glob("[0-9]*.npz"))
  return sum(int(step) < end for step in steps if step.isdecimal())


def _read_array(
  archive: zipfile.ZipFile, member: zipfile.ZipInfo
) -> np.ndarray:
  """One array, of as many numbers as its header says or none."""
  with archive.open(member) as file:
    if np.lib.format.read_magic(file) != (1, 0):
      raise ValueError(f"{member.filename} has an unknown version")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype != np.dtype("<f4"):
      raise ValueError(f"{member.filename} is not of float32")
    order: Literal["F", "C"] = "F" if fortran else "C"
    return np.frombuffer(file.read(), dtype).reshape(shape, order=order).copy()


def _path(directory: Path, step: int) -> Path:
  return directory / f"{step:08d}.npz"
