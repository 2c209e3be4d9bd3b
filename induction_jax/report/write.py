"""Writes a run's summary and figures into its directory."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from induction_jax.config import Config
from induction_jax.model import Model
from induction_jax.report import figures, style
from induction_jax.report.findings import find, summarise
from induction_jax.report.patterns import plot_patterns
from induction_jax.storage.dataset import read_dataset
from induction_jax.storage.run_directory import (
  RunDirectory,
  read_json,
  write_json,
)
from induction_jax.types import Params


def write_summary(run: RunDirectory) -> dict[str, Any]:
  """Writes summary.json from results.nc and returns it."""
  results = read_dataset(run.results)
  summary = summarise(results, find(results), read_json(run.cost))
  write_json(run.summary, summary)
  return summary


def write_figures(
  run: RunDirectory, config: Config, model: Model, params: Params, form: str
) -> list[Path]:
  """Draws every figure the run has data for; returns their paths.

  Args:
    run: the run, with its results.nc.
    config: its config.
    model: its network.
    params: the parameters at its last step, for the attention patterns.
    form: file format: png, svg or pdf.
  """
  results = read_dataset(run.results)
  findings = find(results)
  with style.paper_style():
    drawn = {"transition": figures.plot_transition(results, findings)}
    if "top_eigenvalues" in results:
      drawn["spectrum"] = figures.plot_spectrum(results, findings)
      drawn["alignment"] = figures.plot_alignment(results, findings)
    if "ov_copying" in results:
      drawn["circuits"] = figures.plot_circuits(results, findings)
    drawn["patterns"] = plot_patterns(config, model, params, findings)
    run.figures.mkdir(exist_ok=True)
    return [
      _save(figure, run.figures / f"{name}.{form}")
      for name, figure in drawn.items()
    ]


def _save(figure: Figure, path: Path) -> Path:
  figure.savefig(path, metadata={"Date": None} if path.suffix != ".png" else {})
  plt.close(figure)
  return path
