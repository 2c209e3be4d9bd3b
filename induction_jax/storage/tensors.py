"""Named arrays in a safetensors file. The only importer of safetensors."""

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from induction_jax.config import ConfigError

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


def read(path: Path) -> Tensors:
  """Reads every tensor, in the dtype it has.

  Raises:
    OSError: if there is no such file.
    ConfigError: if it is no safetensors file.
  """
  if not path.is_file():
    raise FileNotFoundError(f"{path}: no such file")
  try:
    return load_file(path)
  # Number formats that numpy does not have are not its errors.
  except (SafetensorError, AttributeError, KeyError, TypeError) as error:
    raise ConfigError(f"{path} is not a safetensors file: {error}") from error


def check_shapes(
  tensors: Mapping[str, np.ndarray],
  expected: Mapping[str, tuple[int, ...]],
  ignored: Collection[str] = (),
) -> None:
  """Checks that a file holds what a layout says, and nothing else.

  Args:
    tensors: what it holds.
    expected: shapes by name.
    ignored: names that may be there and do not matter, such as causal masks.

  Raises:
    ConfigError: that lists the tensors that are missing, that have no place in
      the layout, and that have another shape, with the shape expected.
  """
  missing = sorted(expected.keys() - tensors.keys())
  unexpected = sorted(tensors.keys() - expected.keys() - set(ignored))
  misshapen = [
    f"{name} must be {list(shape)}, got {list(tensors[name].shape)}"
    for name, shape in expected.items()
    if name in tensors and tensors[name].shape != shape
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
  return ", ".join(names[:LISTED]) + (f" and {more} more" if more > 0 else "")
