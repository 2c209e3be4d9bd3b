"""Draws the figures of a run again, from its directory alone.

python -m induction_jax.visualize runs/a
python -m induction_jax.visualize runs/a --format pdf
"""

from pathlib import Path

import xarray as xr
from absl import flags

from induction_jax import cli
from induction_jax.config import ConfigError
from induction_jax.experiment import Experiment, make_reader
from induction_jax.report.findings import Findings, find
from induction_jax.report.patterns import run_sequence
from induction_jax.report.write import write_figures
from induction_jax.results import make_results, write_results
from induction_jax.snapshots import load_or_init
from induction_jax.storage import checkpoints, lock
from induction_jax.storage.run_directory import RunDirectory, load_run

FORMATS = ("png", "svg", "pdf")


def main(argv: list[str]) -> int:
  """Runs the command line; returns the exit status."""
  values = flags.FlagValues()
  flags.DEFINE_enum(
    "format",
    None,
    FORMATS,
    "File format of the figures; by default that of the run.",
    flag_values=values,
  )
  extra = cli.parse(values, argv, __doc__ or "")
  if len(extra) != 1:
    raise ConfigError("one run directory is required, such as runs/a")
  run, config = load_run(Path(extra[0]))
  experiment = make_reader(config)
  if not checkpoints.steps(run.checkpoints):
    raise ConfigError(f"{run.root} has no checkpoint yet: nothing to draw")
  results = _results(experiment, run)
  form = values.format or config.report.format
  draw(experiment, run, results, find(results), form)
  return 0


def _results(experiment: Experiment, run: RunDirectory) -> xr.Dataset:
  """The run's results, written again unless the run itself is at work."""
  try:
    with lock.hold(run.root):
      return write_results(experiment, run)
  except lock.InUseError:
    return make_results(experiment, run)


def draw(
  experiment: Experiment,
  run: RunDirectory,
  results: xr.Dataset,
  findings: Findings,
  form: str,
) -> None:
  """Draws every figure of a run and prints where they are."""
  state = load_or_init(experiment, run)[0].state
  batch = experiment.draw(state.key).induction
  sequence = run_sequence(experiment.model, state.params, batch)
  for path in write_figures(run, results, findings, sequence, form):
    print(f"figure: {path}")


if __name__ == "__main__":
  cli.run_main(main)
