"""Named arrays in files: weights as safetensors, eigenvectors as npz archives.

The only module that imports safetensors. A run that keeps eigenvectors has one
archive of float32 arrays for each measurement, of 2 k P numbers for k
eigenvectors at either end of the spectrum. No file is read with pickle.
"""

import zipfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from induction_jax.config import ConfigError
from induction_jax.devices.limits import check_fits
from induction_jax.storage.files import replacing

Tensors = dict[str, np.ndarray]
MAX_LISTED = 8  # names in one error message


def write(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
  """Writes a safetensors file durably, in place of an earlier one.

  Raises:
    OSError: if it cannot be written.
  """
  # The format stores memory as it is laid out, so views are copied first.
  laid_out = {name: np.array(x, order="C") for name, x in tensors.items()}
  try:
    with replacing(path) as partial:
      save_file(laid_out, partial, metadata={"format": "pt"})
  except SafetensorError as error:
    raise OSError(f"{path} was not saved: {error}") from error


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
  """Reads the shape of every tensor from the header of a safetensors file.

  Raises:
    OSError: if the file is missing.
    ConfigError: if it is not a safetensors file.
  """
  with _opened(path) as file:
    names = file.keys()
    return {name: tuple(file.get_slice(name).get_shape()) for name in names}


def read(path: Path, names: Mapping[str, str]) -> Tensors:
  """Reads some tensors of a safetensors file, each in its own dtype.

  Args:
    path: the file.
    names: the name to return each tensor by -> its name in the file.

  Raises:
    OSError: if the file is missing.
    ConfigError: if it is not a safetensors file, or too large.
  """
  with _opened(path) as file:
    # In this format no two tensors share bytes, and none is beyond the file.
    check_fits(str(path), path.stat().st_size)
    return {name: file.get_tensor(own) for name, own in names.items()}


def check_shapes(
  shapes: Mapping[str, tuple[int, ...]],
  expected: Mapping[str, tuple[int, ...]],
  ignored: Collection[str] = (),
) -> None:
  """Checks that a file has exactly the tensors that a layout names.

  Args:
    shapes: the shapes in the file, by name.
    expected: the shapes of the layout, by name.
    ignored: names that may be in the file and are not read, such as causal
      masks.

  Raises:
    ConfigError: lists missing tensors, unexpected tensors and wrong shapes.
  """
  missing = sorted(expected.keys() - shapes.keys())
  unexpected = sorted(shapes.keys() - expected.keys() - set(ignored))
  misshapen = [
    f"{name} must be {list(shape)}, got {list(shapes[name])}"
    for name, shape in expected.items()
    if name in shapes and shapes[name] != shape
  ]
  problems = [
    f"{what}: {_listed(names)}"
    for what, names in (
      ("missing tensors", missing),
      ("unexpected tensors", unexpected),
      ("wrong shapes", misshapen),
    )
    if names
  ]
  if problems:
    raise ConfigError("; ".join(problems))


def check_finite(tensors: Mapping[str, np.ndarray]) -> None:
  """Checks that all numbers are finite.

  Raises:
    ConfigError: lists the tensors with an infinity or a nan.
  """
  wrong = [name for name, x in tensors.items() if not np.all(np.isfinite(x))]
  if wrong:
    raise ConfigError(f"numbers that are not finite: {_listed(wrong)}")


def check_real(tensors: Mapping[str, np.ndarray]) -> None:
  """Checks that all tensors hold floating-point numbers.

  Raises:
    ConfigError: lists the others, with their dtypes.
  """
  wrong = [
    f"{name} of {x.dtype}"
    for name, x in tensors.items()
    # numpy has no kind for bfloat16.
    if x.dtype.kind != "f" and x.dtype.name != "bfloat16"
  ]
  if wrong:
    raise ConfigError(f"no floating-point numbers: {_listed(wrong)}")


def write_arrays(
  directory: Path, step: int, arrays: Mapping[str, np.ndarray]
) -> None:
  """Writes the eigenvectors of a step durably, as float32."""
  directory.mkdir(parents=True, exist_ok=True)
  narrow = {name: np.asarray(x, np.float32) for name, x in arrays.items()}
  path = _eigenvectors(directory, step)
  with replacing(path) as partial, partial.open("wb") as file:
    np.savez(file, allow_pickle=False, **narrow)


def read_arrays(directory: Path, step: int) -> Tensors:
  """Reads the eigenvectors of a step: [k, ...] by `end.parameter`.

  Raises:
    FileNotFoundError: if none were kept at this step.
    ConfigError: if the file is not an archive of float32 arrays.
  """
  path = _eigenvectors(directory, step)
  try:
    with zipfile.ZipFile(path) as archive:
      members = archive.infolist()
      if sum(member.file_size for member in members) > path.stat().st_size:
        raise ValueError("its members are larger than the archive")
      return {
        member.filename.removesuffix(".npy"): _read_array(archive, member)
        for member in members
      }
  except OSError:
    raise
  except Exception as error:  # a damaged archive may raise anything
    raise ConfigError(f"{path} holds no eigenvectors: {error}") from error


def count_arrays(directory: Path, end: int) -> int:
  """The number of measurements before step `end` that kept eigenvectors."""
  steps = (path.stem for path in directory.glob("[0-9]*.npz"))
  return sum(int(step) < end for step in steps if step.isdecimal())


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
  if not path.is_file():
    raise FileNotFoundError(f"{path}: no such file")
  try:
    with safe_open(path, framework="np") as file:
      yield file
  # For a dtype that numpy lacks safetensors raises none of its own errors.
  except (SafetensorError, AttributeError, KeyError, TypeError) as error:
    raise ConfigError(f"{path} is not a safetensors file: {error}") from error


def _read_array(
  archive: zipfile.ZipFile, member: zipfile.ZipInfo
) -> np.ndarray:
  """Reads one array; an error if its size is not what its header says."""
  with archive.open(member) as file:
    if np.lib.format.read_magic(file) != (1, 0):
      raise ValueError(f"{member.filename} has an unknown version")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype != np.dtype("<f4"):
      raise ValueError(f"{member.filename} is not float32")
    order: Literal["F", "C"] = "F" if fortran else "C"
    return np.frombuffer(file.read(), dtype).reshape(shape, order=order).copy()


def _eigenvectors(directory: Path, step: int) -> Path:
  return directory / f"{step:08d}.npz"


def _listed(names: list[str]) -> str:
  more = len(names) - MAX_LISTED
  return ", ".join(name[:80] for name in names[:MAX_LISTED]) + (
    f" and {more} more" if more > 0 else ""
  )
