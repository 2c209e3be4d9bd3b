r"""Measures checkpoints of a run, or a file of weights.

  python -m induction_jax.measure runs/a --measurements=density,blocks
  python -m induction_jax.measure runs/a --step=400 \
    --config.spectra.track_top_k_eigenvalues=20
  python -m induction_jax.measure --weights=model.safetensors --ablate

A run's checkpoints may be measured with other settings than the run. The
results are written to remeasured.jsonl. In results.nc they replace what the run
measured at the same step; history.jsonl does not change.

Weights may be in the layout of GPT-2, GPT-NeoX (Pythia) or
induction_jax.export. The network's settings are read from a .json file of the
same name beside them, or from config.json. Heads are measured on random tokens
in which a pattern recurs.
"""

import dataclasses
import sys
from functools import partial
from typing import Any

import jax
import numpy as np

from induction_jax.commands import command_line, measure_weights
from induction_jax.config import (
  Config,
  ConfigError,
  change,
  parse_leaves,
  to_dict,
  value_of,
)
from induction_jax.devices.mesh import fit_to_devices
from induction_jax.measurements import (
  MEASUREMENTS,
  Inputs,
  Measurement,
  names_at_checkpoints,
)
from induction_jax.measurements.measurement import Values
from induction_jax.run.experiment import Experiment, make_experiment
from induction_jax.run.log import split_large
from induction_jax.run.loop import measure
from induction_jax.run.results import write_results
from induction_jax.run.snapshots import Snapshot, init_snapshot
from induction_jax.storage import checkpoints, history, lock
from induction_jax.storage.checkpoint_format import CheckpointError
from induction_jax.storage.run_directory import RunDirectory, load_run
from induction_jax.storage.tensors import write_arrays
from induction_jax.types import PyTree

# Sections of the config whose settings may be changed.
SECTIONS = tuple(
  field.name
  for field in dataclasses.fields(Config)
  if field.name in MEASUREMENTS
)


def main(argv: list[str]) -> int:
  """Runs the command line; returns the exit status."""
  parser = command_line.make_parser(
    "measure", "(RUN | --weights FILE)", __doc__
  )
  command_line.add_run_argument(parser)
  of_runs = parser.add_argument_group("checkpoints of a run")
  of_runs.add_argument(
    "--step",
    default="all",
    metavar="N",
    help="Step of a checkpoint, or all (the default).",
  )
  of_runs.add_argument(
    "--measurements",
    metavar="A,B",
    help=f"Some of {', '.join(names_at_checkpoints())}. Default: the "
    "measurements whose settings are given.",
  )
  command_line.add_setting_flags(of_runs)
  of_weights = measure_weights.add_flags(parser)
  values = command_line.parse(parser, argv)
  if values.weights is not None:
    if values.run is not None:
      raise ConfigError(f"unexpected argument {values.run!r} beside --weights")
    if values.step != "all" or values.measurements or values.settings:
      raise ConfigError(
        "--step, --measurements and --config.SECTION.LEAF apply to a run, and "
        "--weights is a file"
      )
    return measure_weights.main(values)
  for flag in of_weights:
    if getattr(values, flag.dest) != flag.default:
      raise ConfigError(f"{flag.option_strings[0]} needs --weights")
  directory, config = load_run(command_line.run_directory(parser, values))
  names = _chosen_measurements(values.measurements, list(values.settings))
  steps = _chosen_steps(values.step, directory)
  settings = parse_leaves(values.settings)
  other = change(to_dict(fit_to_devices(config)), settings)
  if "spectra" in names and other.spectra.keep_eigenvectors:
    names.append("eigenvectors")
  with lock.hold(directory.root):
    remeasure(directory, config, other, names, steps, list(settings))
  return 0


def remeasure(
  directory: RunDirectory,
  config: Config,
  other: Config,
  names: list[str],
  steps: list[int],
  changed: list[str],
) -> None:
  """Measures checkpoints with the measurements of another config.

  Args:
    directory: the run directory.
    config: the config of the run.
    other: the config to measure with. It may differ from `config` in settings
      of measurements and in `mesh`.
    names: names of the measurements to make.
    steps: steps of the checkpoints.
    changed: leaves of `other` to record with every measurement.

  Raises:
    ConfigError: if a measurement does not apply to the run.
  """
  measuring = make_experiment(other)
  _check_applies(names, other, measuring)
  # The run's own experiment, on the devices of this machine.
  trained = make_experiment(dataclasses.replace(config, mesh=other.mesh))
  trained = trained._replace(config=config)
  like = init_snapshot(trained)
  settings = {leaf: value_of(other, leaf) for leaf in changed}
  settings["hessian_products"] = measuring.description
  # Batches and null values depend only on the key and on shapes, which are
  # the same at every step.
  batches = measuring.draw(like.state.key)
  inputs = Inputs(like.state, batches, {}, {})
  nulls = {
    each.name: each.finish(jax.device_get(each.nulls(inputs)))
    for each in measuring.all_measurements
    if each.name in names
  }
  recorded = _recorded_nulls(directory)

  def record(step: int, measurement: Measurement, arrays: PyTree) -> None:
    if measurement.name not in names:
      return  # made only because another measurement uses it
    values, large = split_large(measurement, measurement.finish(arrays))
    values = nulls[measurement.name] | values
    # The run's null values are kept. A nan, such as an overlap without a
    # previous measurement, must not replace a value.
    values = {
      name: value
      for name, value in values.items()
      if name not in recorded and not np.all(np.isnan(value))
    }
    _record(directory, step, measurement.name, values, large, settings)

  for step in steps:
    try:
      state = checkpoints.restore(directory.checkpoints, step, like).state
    except CheckpointError as error:
      if len(steps) == 1:
        raise
      print(f"warning: {error}; skipped", file=sys.stderr)
      continue
    measure(
      measuring,
      Snapshot(state, {}),
      batches,
      lambda each, _: each.name in names,
      partial(record, step),
    )
  write_results(trained, directory)
  print(
    f"results: {directory.results}; to draw them:\n"
    f"  python -m induction_jax.visualize {directory.root}"
  )


def _recorded_nulls(directory: RunDirectory) -> set[str]:
  """Names of the null values that the run has recorded."""
  return {
    name
    for record in history.read(directory.history)
    if record["kind"] == "constants"
    for name in record["values"]
  }


def _record(
  directory: RunDirectory,
  step: int,
  name: str,
  values: Values,
  large: Values,
  settings: dict[str, Any],
) -> None:
  """Writes a measurement to remeasured.jsonl, and large arrays to a file."""
  if large:
    write_arrays(directory.root / name / "remeasured", step, large)
  history.append(
    directory.remeasured,
    step,
    "measurement",
    values,
    measurement=name,
    settings=settings,
  )
  print(f"step {step}: {name} measured", flush=True)


def _check_applies(
  names: list[str], config: Config, experiment: Experiment
) -> None:
  """Raises ConfigError if a measurement does not apply to the run."""
  known = {each.name for each in experiment.all_measurements}
  for name in names:
    if name not in known:
      entry = MEASUREMENTS[name]
      raise ConfigError(
        f"--measurements={name} needs a run with "
        f"{entry.setting}={' or '.join(entry.values)}, got "
        f"{value_of(config, entry.setting)}"
      )


def _chosen_measurements(named: str | None, changed: list[str]) -> list[str]:
  # Section `mesh` chooses devices, not measurements.
  sections = {leaf.split(".")[0] for leaf in changed} - {"mesh"}
  for section in sorted(sections - set(SECTIONS)):
    raise ConfigError(
      f"a checkpoint cannot be measured with another {section}: only settings "
      f"of {', '.join(SECTIONS)} and mesh may be changed"
    )
  chosen = sorted(sections) if named is None else command_line.split(named)
  known = names_at_checkpoints()
  for name in chosen:
    if name not in known:
      raise ConfigError(
        f"--measurements must be some of {', '.join(known)}, got {name!r}"
      )
  if not chosen:
    raise ConfigError(
      "nothing to measure: give --measurements, or settings of a measurement"
    )
  return chosen


def _chosen_steps(step: str, directory: RunDirectory) -> list[int]:
  saved = checkpoints.steps(directory.checkpoints)
  if step == "all" and saved:
    return saved
  if not step.isdecimal() or int(step) not in saved:
    raise ConfigError(
      f"--step must be all or the step of a checkpoint, got {step}; there are "
      f"{', '.join(map(str, saved)) or 'none'}"
    )
  return [int(step)]


if __name__ == "__main__":
  command_line.run_main(main)
