"""History to one labelled xarray Dataset, and results.nc."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from induction_jax.storage.files import replacing
from induction_jax.storage.history import Record
from induction_jax.types import Variable


def make_dataset(
  records: Iterable[Record],
  variables: Iterable[Variable],
  coordinates: Mapping[str, Sequence],
  attributes: Mapping[str, str],
) -> xr.Dataset:
  """Joins all records on one `step` axis, nan where nothing was measured.

  Of two records of one variable at one step the later one counts, and where
  they differ in size (more eigenvalues, say) the smaller is filled with nan.

  Args:
    records: the history.
    variables: declarations of what may be in it; what was never measured is
      left out.
    coordinates: labels along dimensions that have any.
    attributes: of the whole dataset: what run it is of.

  Raises:
    ValueError: if a record holds a variable that is not declared, or one whose
      rank differs from its declaration.
  """
  declared = {variable.name: variable for variable in variables}
  series: dict[str, dict[int, np.ndarray]] = {}
  for record in records:
    for name, value in record["values"].items():
      if name not in declared:
        raise ValueError(f"the history holds an undeclared variable {name!r}")
      array = np.array(value, np.float64)  # None becomes nan
      series.setdefault(name, {})[record["step"]] = array
  steps = sorted({step for values in series.values() for step in values})
  data = {}
  for name, values in series.items():
    variable = declared[name]
    along_step = variable.dims[:1] == ("step",)
    for array in values.values():
      if array.ndim + along_step != len(variable.dims):
        raise ValueError(
          f"{name} must have dimensions {variable.dims}, got shape "
          f"{array.shape} at a step"
        )
    array = (
      _along_steps(values, steps) if along_step else [*values.values()][-1]
    )
    described = {"long_name": variable.long_name, "units": variable.units}
    data[name] = (variable.dims, array, described)
  used = {dim for dims, *_ in data.values() for dim in dims}
  labels = {dim: list(x) for dim, x in coordinates.items() if dim in used}
  dataset = xr.Dataset(
    data, labels | {"step": np.array(steps, np.int64)}, dict(attributes)
  )
  dataset["step"].attrs = {"long_name": "training step", "units": "updates"}
  return dataset


def write_dataset(dataset: xr.Dataset, path: Path) -> None:
  """Writes results.nc whole, then renames it into place."""
  with replacing(path) as partial:
    dataset.to_netcdf(partial, engine="h5netcdf")


def read_dataset(path: Path) -> xr.Dataset:
  """Reads results.nc into memory and closes it.

  Raises:
    FileNotFoundError: if there is none.
  """
  with xr.open_dataset(path, engine="h5netcdf") as dataset:
    return dataset.load()


def _along_steps(values: dict[int, np.ndarray], steps: list[int]) -> np.ndarray:
  shapes = [array.shape for array in values.values()]
  largest = tuple(max(sizes) for sizes in zip(*shapes))
  joined = np.full((len(steps), *largest), np.nan)
  for i, step in enumerate(steps):
    if step in values:
      inside: tuple[Any, ...] = tuple(slice(n) for n in values[step].shape)
      joined[(i, *inside)] = values[step]
  return joined
