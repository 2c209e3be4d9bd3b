"""Measures checkpoints of a run again, with other settings or other probes.

  python -m induction_jax.measure runs/a --probes=density,blocks
  python -m induction_jax.measure runs/a --step=400 \
    --config.spectra.track_top_k_eigenvalues=20
  python -m induction_jax.measure --weights=model.safetensors

The last measures a file of weights, which no run has made (see
induction_jax.commands.measure_weights, and --weights with --help).

What is measured of a run goes to remeasured.jsonl and, in place of what the
run itself measured at the same step, into results.nc; history.jsonl is left as
it is.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from ml_collections import ConfigDict, config_flags

from induction_jax.commands import command_line, measure_weights
from induction_jax.config import Config, ConfigError, make_config, to_dict
from induction_jax.devices.mesh import fit_to_devices
from induction_jax.run.experiment import make_experiment
from induction_jax.run.measuring import keep_vectors, measure, measure_constants
from induction_jax.run.results import write_results
from induction_jax.run.snapshots import init_snapshot
from induction_jax.storage import checkpoints, history, lock
from induction_jax.storage.manifest import CheckpointError
from induction_jax.storage.run_directory import RunDirectory, load_run

# Probes of any run, which are named as their sections of the config.
SECTIONS = (
  "behaviour",
  "circuits",
  "ablation",
  "spectra",
  "density",
  "blocks",
)
# Probes without settings, and the runs they are of: a leaf and its values.
OF_SOME_RUNS = {
  "markov": ("task.name", ("markov",)),
  "memory": ("task.name", ("bigram_trigger",)),
  "projection": ("intervention.project", ("off", "onto")),
}
PROBES = (*SECTIONS, *OF_SOME_RUNS)


def main(argv: list[str]) -> int:
  """Runs the command line; returns the exit status."""
  if any(
    x.lstrip("-").split("=")[0] == "weights" for x in argv if x[:1] == "-"
  ):
    return measure_weights.main(argv)
  if {"--help", "-h"} & set(argv):
    print(__doc__)
    return 0
  if len(argv) < 2 or argv[1].startswith("-"):
    raise ConfigError("a run directory is required first, such as runs/a")
  directory, config = load_run(Path(argv[1]))
  values = flags.FlagValues()
  flags.DEFINE_string(
    "step", "all", "Step of a checkpoint, or all of them.", flag_values=values
  )
  flags.DEFINE_list(
    "probes",
    None,
    f"Some of {', '.join(PROBES)}; default: those whose settings are given.",
    flag_values=values,
  )
  command_line.check_names(
    argv
  )  # a wrong one fails while the flags are defined
  settings = ConfigDict(to_dict(fit_to_devices(config)))
  config_flags.DEFINE_config_dict("config", settings, flag_values=values)
  extra = command_line.parse(values, argv, __doc__ or "")
  if len(extra) != 1:
    raise ConfigError(f"unexpected argument {extra[1]!r}")
  names = _chosen_probes(values.probes, command_line.overridden(argv))
  steps = _chosen_steps(values.step, directory)
  other = make_config(settings.to_dict())
  with lock.hold(directory.root):
    remeasure(
      directory, config, other, names, steps, command_line.overridden(argv)
    )
  return 0


def remeasure(
  directory: RunDirectory,
  config: Config,
  other: Config,
  names: list[str],
  steps: list[int],
  changed: list[str],
) -> None:
  """Measures checkpoints with the probes of another config.

  Args:
    directory: of the run.
    config: that the run was trained with.
    other: the same network and training, measured otherwise.
    names: of the probes to measure with.
    steps: of the checkpoints.
    changed: leaves of `other` to write beside every measurement.

  Raises:
    ConfigError: for a probe that measures no such run.
  """
  flat = {
    f"{section}.{leaf}": value
    for section, leaves in to_dict(other).items()
    if isinstance(leaves, dict)
    for leaf, value in leaves.items()
  }
  _check_runs(names, flat)
  measuring = make_experiment(other)
  # What was trained, on the devices that measure it now.
  trained = make_experiment(dataclasses.replace(config, mesh=other.mesh))
  trained = trained._replace(config=config)
  like = init_snapshot(trained)
  settings = {leaf: flat[leaf] for leaf in changed}
  settings["hessian_products"] = measuring.products
  known = _known_variables(directory)
  probes = [probe for probe in measuring.all_probes if probe.name in names]
  # Both follow from the key and the shapes, which are those of every step.
  held_out = measuring.draw(like.state.key)
  constants = {
    probe.name: measure_constants(probe, like.state, held_out)
    for probe in probes
  }
  for step in steps:
    try:
      state = checkpoints.restore(directory.checkpoints, step, like).state
    except CheckpointError as error:
      if len(steps) == 1:
        raise
      print(f"warning: {error}; passed over", file=sys.stderr)
      continue
    for probe in probes:
      carry = probe.init_carry(state.params)
      values, carry = measure(probe, state, held_out, carry)
      # Beside those of the run itself, which are not to be lost.
      keep_vectors(probe, directory.eigenvectors / "remeasured", step, carry)
      # Constants are the run's own, where it has them; and what is nan here
      # (an overlap with no measurement before it) replaces nothing.
      values = {
        name: value
        for name, value in (constants[probe.name] | values).items()
        if name not in known and not np.all(np.isnan(value))
      }
      history.append(
        directory.remeasured,
        step,
        "measurement",
        values,
        measurement=probe.name,
        settings=settings,
      )
      print(f"step {step}: {probe.name} measured", flush=True)
  write_results(trained, directory)
  print(
    f"results: {directory.results}; to draw them:\n"
    f"  python -m induction_jax.visualize {directory.root}"
  )


def _check_runs(names: list[str], flat: dict[str, Any]) -> None:
  """Raises ConfigError for a probe that has nothing to say of such a run."""
  for name in sorted(OF_SOME_RUNS.keys() & names):
    leaf, allowed = OF_SOME_RUNS[name]
    if flat[leaf] not in allowed:
      raise ConfigError(
        f"--probes={name} needs a run with {leaf}={' or '.join(allowed)}, got "
        f"{flat[leaf]}"
      )


def _known_variables(directory: RunDirectory) -> set[str]:
  """Constants that the run has recorded."""
  return {
    name
    for record in history.read(directory.history)
    if record["kind"] == "constants"
    for name in record["values"]
  }


def _chosen_probes(named: list[str] | None, changed: list[str]) -> list[str]:
  # Of the devices there is nothing to choose probes by.
  sections = {leaf.split(".")[0] for leaf in changed} - {"mesh"}
  for section in sorted(sections - set(SECTIONS)):
    raise ConfigError(
      f"a checkpoint cannot be measured with another {section}: settings are "
      f"those of {', '.join(SECTIONS)}, mesh"
    )
  chosen = sorted(sections) if named is None else named
  for name in chosen:
    if name not in PROBES:
      raise ConfigError(
        f"--probes must be some of {', '.join(PROBES)}, got {name!r}"
      )
  if not chosen:
    raise ConfigError(
      "nothing to measure: give --probes, or settings of a probe"
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
