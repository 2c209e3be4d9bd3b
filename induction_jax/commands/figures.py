"""Drawing a run's figures, which several commands end with."""

import xarray as xr

from induction_jax.report.behaviour_figures import run_sequence
from induction_jax.report.figures import write_figures
from induction_jax.report.findings import Findings
from induction_jax.run.experiment import Experiment
from induction_jax.run.snapshots import load_newest
from induction_jax.storage.run_directory import RunDirectory


def draw_figures(
  experiment: Experiment,
  run: RunDirectory,
  results: xr.Dataset,
  findings: Findings,
  form: str,
) -> None:
  """Draws every figure of a run and prints where they are."""
  state = load_newest(experiment, run).state
  batch = experiment.draw(state.key).induction
  results = results.assign(run_sequence(experiment.model, state.params, batch))
  for path in write_figures(run.figures, results, findings, form):
    print(f"figure: {path}")
