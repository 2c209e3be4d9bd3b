"""Draws the figures of a run again, from its directory alone.

  python -m induction_jax.visualize runs/a
  python -m induction_jax.visualize runs/a --format pdf
"""

from pathlib import Path

from absl import flags

from induction_jax import cli
from induction_jax.config import ConfigError
from induction_jax.loop import load_or_init, make_experiment, write_results
from induction_jax.report.write import write_figures
from induction_jax.storage.run_directory import RunDirectory, load_run

FORMATS = ("png", "svg", "pdf")


def main(argv: list[str]) -> int:
  """Runs the command line; returns the exit status."""
  values = flags.FlagValues()
  flags.DEFINE_enum(
    "format", "png", FORMATS, "File format of the figures.", flag_values=values
  )
  extra = cli.parse(values, argv, __doc__ or "")
  if len(extra) != 1:
    raise ConfigError("one run directory is required, such as runs/a")
  run, _ = load_run(Path(extra[0]))
  for path in draw(run, values.format):
    print(f"figure: {path}")
  return 0


def draw(run: RunDirectory, form: str) -> list[Path]:
  """Draws every figure of a run; returns their paths.

  Raises:
    ConfigError: if the run has not measured anything yet.
  """
  _, config = load_run(run.root)
  experiment = make_experiment(config)
  snapshot, found = load_or_init(experiment, run)
  if not found:
    raise ConfigError(f"{run.root} has no checkpoint yet: nothing to draw")
  write_results(experiment, run)
  return write_figures(
    run, config, experiment.model, snapshot.state.params, form
  )


if __name__ == "__main__":
  cli.run_main(main)
