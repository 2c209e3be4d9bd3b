"""Named arrays in a safetensors file. The only importer of safetensors."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from induction_jax.config import ConfigError
from induction_jax.devices.limits import check_fits

Tensors = dict[str, np.ndarray]
LISTED = 8  # names of a list that an error message gives


def write(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
  """Writes a file whole, then renames it into place.

  Raises:
    OSError: if it cannot be written.
  """
  partial = path.with_name(path.name + ".partial")
  # The format stores memory as it lies, so views are copied first.
  laid_out = {name: np.array(x, order="C") for name, x in tensors.items()}
  try:
    save_file(laid_out, partial, metadata={"format": "pt"})
  except SafetensorError as error:
    raise OSError(f"{path} was not saved: {error}") from error
  partial.replace(path)


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
  """The shape of every tensor, by the file's header alone.

  Raises:
    OSError: if there is no such file.
    ConfigError: if it is no safetensors file.
  """
  with _opened(path) as file:
    names = file.keys()
    return {name: tuple(file.get_slice(name).get_shape()) for name in names}


def read(path: Path, names: Mapping[str, str]) -> Tensors:
  """Reads some of the tensors, in the dtype they have.

  Args:
    path: of the file.
    names: what to call them -> what the file calls them.

  Raises:
    OSError: if there is no such file.
    ConfigError: if it is no safetensors file, or too large.
  """
  with _opened(path) as file:
    # The format has no number twice, and none that the file has not.
    check_fits(str(path), path.stat().st_size)
    return {name: file.get_tensor(own) for name, own in names.items()}


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
  if not path.is_file():
    raise FileNotFoundError(f"{path}: no such file")
  try:
    with safe_open(path, framework="np") as file:
      yield file
  # Number formats that numpy does not have are not its errors.
  except (SafetensorError, AttributeError, KeyError, TypeError) as error:
    raise ConfigError(f"{path} is not a safetensors file: {error}") from error


def check_shapes(
  shapes: Mapping[str, tuple[int, ...]],
  expected: Mapping[str, tuple[int, ...]],
  ignored: Collection[str] = (),
) -> None:
  """Checks that a file holds what a layout says, and nothing else.

  Args:
    shapes: of what it holds.
    expected: shapes by name.
    ignored: names that may be there and do not matter, such as causal masks.

  Raises:
    ConfigError: that lists the tensors that are missing, that have no place in
      the layout, and that have another shape, with the shape expected.
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
  """Checks that all numbers are.

  Raises:
    ConfigError: that lists the tensors with an infinity or a nan.
  """
  wrong = [name for name, x in tensors.items() if not np.all(np.isfinite(x))]
  if wrong:
    raise ConfigError(f"numbers that are not finite: {_listed(wrong)}")


def check_real(tensors: Mapping[str, np.ndarray]) -> None:
  """Checks that all tensors are of floating-point numbers.

  Raises:
    ConfigError: that lists those that are not, with what they are of.
  """
  wrong = [
    f"{name} of {x.dtype}"
    for name, x in tensors.items()
    # bfloat16 is of no kind that numpy knows.
    if x.dtype.kind != "f" and x.dtype.name != "bfloat16"
  ]
  if wrong:
    raise ConfigError(f"no floating-point numbers: {_listed(wrong)}")


def _listed(names: list[str]) -> str:
  more = len(names) - LISTED
  return ", ".join(name[:80] for name in names[:LISTED]) + (
    f" and {more} more" if more > 0 else ""
  )
