"""History to one labelled xarray Dataset, and results.nc."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import xarray as xr

from induction_jax.storage.history import Record
from induction_jax.types import Variable


def make_dataset(
  records: Iterable[Record],
  variables: Iterable[Variable],
  attributes: Mapping[str, str],
) -> xr.Dataset:
  """Joins all records on one `step` axis, nan where nothing was measured.

  Args:
    records: the history, in any order.
    variables: declarations of what may be in it; what was never measured is
      left out.
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
    if variable.dims[:1] == ("step",):
      array = _along_steps(values, steps)
    else:
      array = next(iter(values.values()))
    if array.ndim != len(variable.dims):
      raise ValueError(
        f"{name} must have dimensions {variable.dims}, got shape {array.shape}"
      )
    described = {"long_name": variable.long_name, "units": variable.units}
    data[name] = (variable.dims, array, described)
  dataset = xr.Dataset(
    data, {"step": np.array(steps, np.int64)}, dict(attributes)
  )
  dataset["step"].attrs = {"long_name": "training step", "units": "updates"}
  return dataset


def write_dataset(dataset: xr.Dataset, path: Path) -> None:
  """Writes results.nc whole, then renames it into place."""
  partial = path.with_name(path.name + ".partial")
  dataset.to_netcdf(partial, engine="h5netcdf")
  with partial.open("rb") as file:
    os.fsync(file.fileno())
  partial.replace(path)


def read_dataset(path: Path) -> xr.Dataset:
  """Reads results.nc into memory and closes it.

  Raises:
    FileNotFoundError: if there is none.
  """
  with xr.open_dataset(path, engine="h5netcdf") as dataset:
    return dataset.load()


def _along_steps(values: dict[int, np.ndarray], steps: list[int]) -> np.ndarray:
  shape = next(iter(values.values())).shape
  missing = np.full(shape, np.nan)
  return np.stack([values.get(step, missing) for step in steps])
