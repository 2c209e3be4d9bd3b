"""results.nc: all that was measured of a run, labelled."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import xarray as xr

from induction_jax.config import ConfigError, to_dict
from induction_jax.measurements import all_variables
from induction_jax.measurements.alarm import ALARM, WATCHED
from induction_jax.run.experiment import Experiment
from induction_jax.storage import dataset, history
from induction_jax.storage.run_directory import RunDirectory


def write_results(
  experiment: Experiment, directory: RunDirectory
) -> xr.Dataset:
  """Rebuilds results.nc from all that was measured, and returns it.

  Raises:
    ConfigError: if nothing was; an earlier results.nc stays as it is.
  """
  results = make_results(experiment, directory)
  dataset.write_dataset(results, directory.results)
  return results


def make_results(
  experiment: Experiment, directory: RunDirectory, *, zooms: bool = True
) -> xr.Dataset:
  """What results.nc is to hold: all that was measured, on one `step` axis.

  A replay adds to what the run measured and replaces nothing of it; what was
  measured again with other settings does replace it.

  Args:
    experiment: of the run.
    directory: of the run.
    zooms: with the replays' measurements, as results.nc has them.

  Raises:
    ConfigError: if nothing was measured.
  """
  own = history.read(directory.history)
  if not any(record["kind"] == "measurement" for record in own):
    raise ConfigError(f"{directory.history} holds no measurement yet")
  zoomed = history.read(directory.zoomed) if zooms else []
  again = history.read(directory.remeasured)
  variables = all_variables(experiment.all_probes) + ALARM.variables
  attributes = {
    "title": "training run of induction_jax",
    "config": json.dumps(to_dict(experiment.config)),
    "hessian_products": experiment.products,
    "zoomed": json.dumps(_zooms(zoomed)),
    "replayed": json.dumps(_replays(zoomed)),
    "remeasured": json.dumps(
      [{k: v for k, v in each.items() if k != "values"} for each in again]
    ),
  }
  coordinates: dict[str, Sequence] = {}
  for probe in experiment.all_probes:
    coordinates |= probe.coordinates
  # Of two values the later one counts.
  records = zoomed + own + again
  results = dataset.make_dataset(records, variables, coordinates, attributes)
  _check_complete(results, experiment, directory)
  return results


def _check_complete(
  results: xr.Dataset, experiment: Experiment, directory: RunDirectory
) -> None:
  """Checks what findings and figures rely on: behaviour, of these heads."""
  names = {
    variable.name
    for probe in experiment.all_probes
    if probe.name == WATCHED
    for variable in probe.variables
  }
  if missing := sorted(names - results.keys()):
    raise ConfigError(f"{directory.history} has no {', '.join(missing)}")
  model = experiment.config.model
  for dim, size in (("layer", model.n_layers), ("head", model.n_heads)):
    if results.sizes[dim] != size:
      raise ConfigError(
        f"{directory.history} must be of {size} {dim}s, got "
        f"{results.sizes[dim]}"
      )


def _zooms(records: list[history.Record]) -> list[dict[str, Any]]:
  """How many steps replays measured, by measurement and range."""
  counts = Counter(
    (each["measurement"], *each["zoom"].values())
    for each in records
    if each["kind"] == "measurement"
  )
  names = ("measurement", "from", "to", "every", "count")
  return [dict(zip(names, (*zoom, n))) for zoom, n in counts.items()]


def _replays(records: list[history.Record]) -> list[dict[str, Any]]:
  """How replays compared with checkpoints, the newest of equal ranges."""
  newest = {
    (each["start"], each["step"]): each
    for each in records
    if each["kind"] == "replay"
  }
  names = ("equal", "largest_difference")
  return [
    {"from": start, "to": step} | {name: each[name] for name in names}
    for (start, step), each in newest.items()
  ]
