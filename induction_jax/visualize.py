"""Draws the figures of a run, from its directory alone.

  python -m induction_jax.visualize runs/a
  python -m induction_jax.visualize runs/a --format pdf

They are written to runs/a/figures.
"""

import xarray as xr

from induction_jax.commands import command_line
from induction_jax.commands.figures import draw_figures
from induction_jax.config import ConfigError
from induction_jax.report.findings import find
from induction_jax.run.experiment import Experiment, make_reader
from induction_jax.run.results import make_results, write_results
from induction_jax.storage import checkpoints, lock
from induction_jax.storage.run_directory import RunDirectory, load_run

FORMATS = ("png", "svg", "pdf")


def main(argv: list[str]) -> int:
  """Runs the command line; returns the exit status."""
  parser = command_line.make_parser("visualize", "RUN", __doc__)
  command_line.add_run_argument(parser)
  parser.add_argument(
    "--format",
    choices=FORMATS,
    help="File format of the figures. Default: the run's report.format.",
  )
  values = command_line.parse(parser, argv)
  run, config = load_run(command_line.run_directory(parser, values))
  experiment = make_reader(config)
  if not checkpoints.steps(run.checkpoints):
    raise ConfigError(f"{run.root} has no checkpoint yet: nothing to draw")
  results = _results(experiment, run)
  form = values.format or config.report.format
  draw_figures(experiment, run, results, find(results), form)
  return 0


def _results(experiment: Experiment, run: RunDirectory) -> xr.Dataset:
  """The run's results, also written to disk unless the run is in progress."""
  try:
    with lock.hold(run.root):
      return write_results(experiment, run)
  except lock.InUseError:
    return make_results(experiment, run)


if __name__ == "__main__":
  command_line.run_main(main)
