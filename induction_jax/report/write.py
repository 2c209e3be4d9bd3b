"""Writes a run's summary and figures into its directory."""

import contextlib
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import xarray as xr
from matplotlib.figure import Figure

from induction_jax.config import ConfigError
from induction_jax.report import figures, style
from induction_jax.report.ablation_figure import plot_ablation, plot_paths
from induction_jax.report.circuit_figures import (
  plot_circuits,
  plot_eigenvalues,
)
from induction_jax.report.composition_figure import plot_compositions
from induction_jax.report.context_figure import plot_context
from induction_jax.report.curvature_figures import (
  plot_block_mass,
  plot_blocks,
  plot_density,
)
from induction_jax.report.findings import Findings
from induction_jax.report.patterns import Shown, plot_patterns
from induction_jax.report.summary import summarise
from induction_jax.report.task_figures import plot_markov, plot_memory
from induction_jax.storage.documents import read_object
from induction_jax.storage.run_directory import (
  RunDirectory,
  read_cost,
  write_json,
)


def write_summary(
  run: RunDirectory, results: xr.Dataset, findings: Findings
) -> dict[str, Any]:
  """Writes summary.json and returns what is in it.

  What the newest zoom said of the run (`add_zoom`) stays in it.
  """
  summary = summarise(results, findings, read_cost(run.cost))
  with contextlib.suppress(OSError, ConfigError):  # none before, or damaged
    summary |= {"zoom": read_object(run.summary, zoom=dict)["zoom"]}
  write_json(run.summary, summary)
  return summary


def add_zoom(run: RunDirectory, zoomed: dict[str, Any]) -> None:
  """Puts what a zoom says beside what the run found itself in summary.json.

  The newest zoom counts; a run that has not ended yet has no summary.
  """
  if run.summary.exists():
    write_json(run.summary, read_object(run.summary) | {"zoom": zoomed})


def write_figures(
  run: RunDirectory,
  results: xr.Dataset,
  findings: Findings,
  sequence: Shown,
  form: str,
) -> list[Path]:
  """Draws every figure the run has data for; returns their paths.

  Args:
    run: where figures/ is.
    results: the run's results.
    findings: what was found in them.
    sequence: what one sequence does in the network at the last step.
    form: file format: png, svg or pdf.
  """
  with style.paper_style():
    drawn = {"transition": figures.plot_transition(results, findings)}
    if "markov_loss" in results:
      drawn["markov"] = plot_markov(results, findings)
    if "w_o2_recall" in results:
      drawn["memory"] = plot_memory(results, findings)
    if "top_eigenvalues" in results:
      drawn["spectrum"] = figures.plot_spectrum(results, findings)
      drawn["alignment"] = figures.plot_alignment(results, findings)
      drawn["block_mass"] = plot_block_mass(results, findings)
    if "density" in results:
      drawn["density"] = plot_density(results, findings)
    if "block_norm" in results:
      drawn["blocks"] = plot_blocks(results, findings)
    if "ov_copied_fraction" in results:
      drawn["circuits"] = plot_circuits(results, findings)
      drawn["eigenvalues"] = plot_eigenvalues(results, findings)
    if "k_composed_matching_null_samples" in results:  # with pairs of heads
      drawn["composition"] = plot_compositions(results, findings)
    drawn["context"] = plot_context(results, findings)
    if "frozen_ablation_cost" in results:
      drawn["ablation"] = plot_ablation(results, findings)
      drawn["paths"] = plot_paths(results, findings)
    drawn["patterns"] = plot_patterns(sequence, findings)
    run.figures.mkdir(exist_ok=True)
    return [
      save_figure(figure, run.figures / f"{name}.{form}")
      for name, figure in drawn.items()
    ]


def save_figure(figure: Figure, path: Path) -> Path:
  """Writes a figure, the same bytes for the same data, and closes it."""
  figure.savefig(path, metadata={"Date": None} if path.suffix != ".png" else {})
  plt.close(figure)
  return path
