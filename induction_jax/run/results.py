"""results.nc: everything that was measured of a run, labelled."""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import xarray as xr

from induction_jax.config import ConfigError, to_dict
from induction_jax.measurements import all_variables
from induction_jax.run.experiment import Experiment
from induction_jax.storage import dataset, history
from induction_jax.storage.run_directory import RunDirectory


def write_results(
  experiment: Experiment, directory: RunDirectory
) -> xr.Dataset:
  """Rebuilds results.nc from everything that was measured, and returns it.

  Raises:
    ConfigError: if nothing was measured; results.nc is left alone.
  """
  results = make_results(experiment, directory)
  dataset.write_dataset(results, directory.results)
  return results


def make_results(
  experiment: Experiment, directory: RunDirectory, *, zooms: bool = True
) -> xr.Dataset:
  """Everything that was measured, on one `step` axis, as for results.nc.

  What a replay measured is added and replaces nothing. What was measured again
  with other settings replaces what the run itself measured at that step.

  Args:
    experiment: of the run.
    directory: of the run.
    zooms: whether to include what replays measured, as results.nc does.

  Raises:
    ConfigError: if nothing was measured.
  """
  own = history.read(directory.history)
  if not any(record["kind"] == "measurement" for record in own):
    raise ConfigError(f"{directory.history} holds no measurement yet")
  zoomed = history.read(directory.zoomed) if zooms else []
  again = history.read(directory.remeasured)
  variables = all_variables(experiment.all_measurements)
  attributes = {
    "title": "training run of induction_jax",
    "config": json.dumps(to_dict(experiment.config)),
    "hessian_products": experiment.description,
    "zoomed": json.dumps(_zooms(zoomed)),
    "replayed": json.dumps(_replays(zoomed)),
    "remeasured": json.dumps(
      [{k: v for k, v in each.items() if k != "values"} for each in again]
    ),
  }
  coordinates: dict[str, Sequence] = {}
  for measurement in experiment.all_measurements:
    coordinates |= measurement.coordinates
  # Of two values of one step the later record counts.
  records = _of_known_measurements(zoomed + own + again, experiment)
  results = dataset.make_dataset(records, variables, coordinates, attributes)
  _check_complete(results, experiment, directory)
  return results


def _of_known_measurements(
  records: list[history.Record], experiment: Experiment
) -> list[history.Record]:
  """Leaves out, with a warning, what code outside the package measured."""
  known = {each.name for each in experiment.all_measurements}

  def is_known(record: history.Record) -> bool:
    return record.get("measurement", "behaviour") in known

  for name in {each["measurement"] for each in records if not is_known(each)}:
    print(
      f"warning: measurement {name} is not registered; results.nc will not "
      "hold it",
      file=sys.stderr,
    )
  return [record for record in records if is_known(record)]


def _check_complete(
  results: xr.Dataset, experiment: Experiment, directory: RunDirectory
) -> None:
  """Checks what findings and figures rely on: the behaviour of every head."""
  names = {
    variable.name
    for measurement in experiment.all_measurements
    if measurement.name == "behaviour"
    for variable in measurement.variables
  }
  if missing := sorted(names - results.keys()):
    raise ConfigError(f"{directory.history} has no {', '.join(missing)}")
  model = experiment.config.model
  for dim, size in (("layer", model.n_layers), ("head", model.n_heads)):
    if results.sizes[dim] != size:
      raise ConfigError(
        f"{directory.history} must have {size} {dim}s, got {results.sizes[dim]}"
      )


def _zooms(records: list[history.Record]) -> list[dict[str, Any]]:
  """The steps measured in replays: by measurement and range, with counts."""
  counts = Counter(
    (each["measurement"], *each["zoom"].values())
    for each in records
    if each["kind"] == "measurement"
  )
  names = ("measurement", "from", "to", "every", "count")
  return [dict(zip(names, (*zoom, n))) for zoom, n in counts.items()]


def _replays(records: list[history.Record]) -> list[dict[str, Any]]:
  """How replays compared with checkpoints, the newest for each range."""
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
