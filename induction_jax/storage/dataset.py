"""The history as one labelled xarray Dataset: results.nc."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xarray as xr

from induction_jax.config import ConfigError, shown
from induction_jax.devices.limits import check_fits
from induction_jax.storage.files import replacing
from induction_jax.storage.history import RENAMED_VARIABLES, Record
from induction_jax.types import Variable

MAX_LABEL_BYTES = 1000  # of a label along a dimension


def make_dataset(
  records: Iterable[Record],
  variables: Iterable[Variable],
  coordinates: Mapping[str, Sequence],
  attributes: Mapping[str, str],
) -> xr.Dataset:
  """Joins records along one `step` axis, with nan where nothing was measured.

  If two records hold the same variable at the same step, the later one counts.
  Values of different sizes (more eigenvalues at one step, say) are padded with
  nan.

  Args:
    records: from `history.read`.
    variables: declarations of all variables that the records may hold; those
      that were never measured are left out.
    coordinates: labels along some dimensions.
    attributes: of the dataset.

  Raises:
    ConfigError: if a record holds an undeclared variable, or a shape that
      differs from its declaration or from other variables, or if the dataset
      would take more memory than devices/limits.py allows.
  """
  declared = {variable.name: variable for variable in variables}
  series: dict[str, dict[int, np.ndarray]] = {}
  for record in records:
    for name, value in record["values"].items():
      if name not in declared:
        raise ConfigError(
          f"the history holds an undeclared variable {shown(name)}"
        )
      array = np.array(value, np.float64)  # None becomes nan
      series.setdefault(name, {})[record["step"]] = array
  steps = sorted({step for values in series.values() for step in values})
  joined = [series[name] for name in series if _along_step(declared[name])]
  rows = sum(math.prod(_largest(values)) for values in joined)
  check_fits("all that was measured", 8 * len(steps) * rows)
  data = {}
  for name, values in series.items():
    variable = declared[name]
    along_step = _along_step(variable)
    for array in values.values():
      if array.ndim + along_step != len(variable.dims):
        raise ConfigError(
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
  coords = labels | {"step": np.array(steps, np.int64)}
  try:
    dataset = xr.Dataset(data, coords, dict(attributes))
  except ValueError as error:  # one dimension, two sizes
    raise ConfigError(
      f"what was measured does not fit together: {error}"
    ) from error
  dataset["step"].attrs = {"long_name": "training step", "units": "updates"}
  return dataset


def join_seeds(results: Mapping[int, xr.Dataset]) -> xr.Dataset:
  """Stacks the results of many seeds along a new first dimension `seed`.

  Where a seed has fewer steps or eigenvalues than another it is padded with
  nan.

  Args:
    results: the dataset of each seed, at least one. Their configs must be equal
      except for the seed.
  """
  datasets = list(results.values())
  joined = xr.concat(
    [dataset.drop_attrs(deep=False) for dataset in datasets],
    xr.Variable("seed", list(results), {"long_name": "seed", "units": "1"}),
    data_vars="all",
    coords="minimal",
    compat="equals",
    join="outer",
    combine_attrs="override",
  )
  first = datasets[0].attrs
  return joined.assign_attrs(
    title="sweep over seeds of induction_jax",
    config=first["config"],
    hessian_products=first["hessian_products"],
    seeds=json.dumps(list(results)),
  )


def write_dataset(dataset: xr.Dataset, path: Path) -> None:
  """Writes results.nc durably, in place of an earlier one."""
  # In memory first: HDF5 ends the process if the disk is full when it writes.
  data = dataset.to_netcdf(engine="h5netcdf")
  with replacing(path) as partial:
    partial.write_bytes(data)


def read_dataset(path: Path) -> xr.Dataset:
  """Reads results.nc into memory and closes it.

  Variables of earlier versions are returned by their present names.

  Raises:
    OSError: if the file is missing, or HDF5 cannot read it.
    ConfigError: if it holds anything else than plain arrays, or more of them
      than devices/limits.py allows.
  """
  if not path.is_file():
    raise FileNotFoundError(f"{path}: no such file")
  try:
    with h5py.File(path, "r") as file:
      _check_arrays(path, file)
    with xr.open_dataset(
      path, engine="h5netcdf", decode_times=False, phony_dims="access"
    ) as dataset:
      renamed = {k: v for k, v in RENAMED_VARIABLES.items() if k in dataset}
      return dataset.load().rename(renamed)
  except (OSError, ConfigError):
    raise
  except Exception as error:  # a damaged file may raise anything
    raise ConfigError(f"{path} is not a results file: {error}") from error


def _check_arrays(path: Path, file: h5py.File) -> None:
  """Refuses links, external data, filter plugins and anything but arrays.

  HDF5 files may name other files and filters to load; ours never do.
  """
  needed = 0
  for name in file:
    array = file[name] if _is_own(file, name) else None
    if not isinstance(array, h5py.Dataset) or not _is_plain(array):
      raise ConfigError(
        f"{path} must hold plain arrays only, got {shown(name)}"
      )
    # Both the stored and the decoded array, and a decompressed chunk.
    chunk = math.prod(array.chunks or (0,))
    needed += array.dtype.itemsize * (2 * array.size + chunk)
  check_fits(str(path), needed)
  # Many elements of an array of text may share one long text in the file.
  for array in file.values():
    for attribute in map(array.attrs.get_id, array.attrs):
      if _is_text(attribute.dtype) and math.prod(attribute.shape) > 1:
        raise ConfigError(f"{path} must hold one text in each attribute")
    labels = np.ndindex(array.shape) if _is_text(array.dtype) else ()
    if any(len(array[place]) > MAX_LABEL_BYTES for place in labels):
      raise ConfigError(
        f"{path} must hold labels of at most {MAX_LABEL_BYTES} bytes"
      )


def _is_own(file: h5py.File, name: str) -> bool:
  return isinstance(file.get(name, getlink=True), h5py.HardLink)


def _is_plain(array: h5py.Dataset) -> bool:
  return (
    not array.id.get_create_plist().get_nfilters()
    and not array.is_virtual
    and not array.external
    and (_is_text(array.dtype) or array.dtype.kind in "biuf")
  )


def _is_text(dtype: np.dtype) -> bool:
  return h5py.check_string_dtype(dtype) is not None


def _along_steps(values: dict[int, np.ndarray], steps: list[int]) -> np.ndarray:
  joined = np.full((len(steps), *_largest(values)), np.nan)
  for i, step in enumerate(steps):
    if step in values:
      inside: tuple[Any, ...] = tuple(slice(n) for n in values[step].shape)
      joined[(i, *inside)] = values[step]
  return joined


def _along_step(variable: Variable) -> bool:
  return variable.dims[:1] == ("step",)


def _largest(values: dict[int, np.ndarray]) -> tuple[int, ...]:
  return tuple(
    max(sizes) for sizes in zip(*(array.shape for array in values.values()))
  )
