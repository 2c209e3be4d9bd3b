r"""Measures checkpoints of a run again, or a file of weights.

  python -m induction_jax.measure runs/a --measurements=density,blocks
  python -m induction_jax.measure runs/a --step=400 \
    --config.spectra.track_top_k_eigenvalues=20
  python -m induction_jax.measure --weights=model.safetensors --ablate

Measurements of a run may have other settings than the run had. They go to
remeasured.jsonl and, in place of what the run itself measured at the same
step, into results.nc; history.jsonl stays.

Weights may be in the layout of GPT-2, of GPT-NeoX (Pythia) or of
induction_jax.export, with the network's settings in config.json, or in a .json
of the file's own name, beside them. Heads are measured on random tokens in
which a pattern recurs.
"""

import dataclasses
import sys
from typing import Any

import numpy as np

from induction_jax.commands import command_line, measure_weights
from induction_jax.config import (
  Config,
  ConfigError,
  change,
  parse_leaves,
  to_dict,
)
from induction_jax.devices.mesh import fit_to_devices
from induction_jax.run.experiment import make_experiment
from induction_jax.run.measuring import keep_vectors, measure, measure_constants
from induction_jax.run.results import write_results
from induction_jax.run.snapshots import init_snapshot
from induction_jax.storage import checkpoints, history, lock
from induction_jax.storage.checkpoint_format import CheckpointError
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
    help=f"Some of {', '.join(PROBES)}. Default: those whose settings are "
    "given.",
  )
  command_line.add_setting_flags(of_runs)
  of_weights = measure_weights.add_flags(parser)
  values = command_line.parse(parser, argv)
  if values.weights is not None:
    if values.run is not None:
      raise ConfigError(f"unexpected argument {values.run!r} beside --weights")
    if values.step != "all" or values.measurements or values.settings:
      raise ConfigError(
        "--step, --measurements and --config.SECTION.LEAF are for a run, and "
        "--weights is a file"
      )
    return measure_weights.main(values)
  for flag in of_weights:
    if getattr(values, flag.dest) != flag.default:
      raise ConfigError(f"{flag.option_strings[0]} needs --weights")
  directory, config = load_run(command_line.run_directory(parser, values))
  names = _chosen_probes(values.measurements, list(values.settings))
  steps = _chosen_steps(values.step, directory)
  settings = parse_leaves(values.settings)
  other = change(to_dict(fit_to_devices(config)), settings)
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
  r"""Measures checkpoints with the probes of another config.

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
        f"--measurements={name} needs a run with {leaf}="
        f"{' or '.join(allowed)}, got {flat[leaf]}"
      )


def _known_variables(directory: RunDirectory) -> set[str]:
  """Constants that the run has recorded."""
  return {
    name
    for record in history.read(directory.history)
    if record["kind"] == "constants"
    for name in record["values"]
  }


def _chosen_probes(named: str | None, changed: list[str]) -> list[str]:
  # Of the devices there is nothing to choose probes by.
  sections = {leaf.split(".")[0] for leaf in changed} - {"mesh"}
  for section in sorted(sections - set(SECTIONS)):
    raise ConfigError(
      f"a checkpoint cannot be measured with another {section}: settings are "
      f"those of {', '.join(SECTIONS)}, mesh"
    )
  chosen = sorted(sections) if named is None else command_line.split(named)
  for name in chosen:
    if name not in PROBES:
      raise ConfigError(
        f"--measurements must be some of {', '.join(PROBES)}, got {name!r}"
      )
  if not chosen:
    raise ConfigError(
      "nothing to measure: give --measurements, or settings of one"
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
