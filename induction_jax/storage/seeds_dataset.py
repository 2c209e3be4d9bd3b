"""The results of many seeds as one dataset."""

import json
from collections.abc import Mapping

import xarray as xr


def join_seeds(results: Mapping[int, xr.Dataset]) -> xr.Dataset:
  """Every variable with a dimension `seed` first, nan where one has none.

  A seed that stopped early has no later steps, and one that measured fewer
  eigenvalues no further ones.

  Args:
    results: each seed's results.nc, at least one; of one config but for the
      seed.
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
