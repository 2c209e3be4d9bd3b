"""The table of a run's figures, and how they are drawn and saved.

A figure is a function of a run's results and findings, and one line of FIGURES
that names the variable it cannot do without. A figure from outside the package
is added to the table in the same way:

>>> import matplotlib.pyplot as plt
>>> from induction_jax.report import figures, findings, style
>>> def plot_trace(results, found):
...   figure, ax = plt.subplots(figsize=(style.WIDTH, 2.8))
...   trace = findings.measured(results["trace"])
...   error = results["trace_se"].sel(step=trace.step)
...   style.plot_curve(ax, trace, "trace", style.BLUE)
...   style.plot_band(ax, trace.step, trace - error, trace + error, style.BLUE)
...   ax.set_ylabel("trace of the Hessian (nats)")
...   style.step_axis(ax, results.step.values, found)
...   return figure
>>> figures.FIGURES["trace"] = figures.RunFigure(plot_trace, needs="trace")
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import xarray as xr
from matplotlib.figure import Figure

from induction_jax.report import style
from induction_jax.report.ablation_figures import plot_ablation, plot_paths
from induction_jax.report.behaviour_figures import (
  plot_context,
  plot_patterns,
  plot_transition,
)
from induction_jax.report.circuit_figures import (
  plot_circuits,
  plot_compositions,
  plot_eigenvalues,
)
from induction_jax.report.curvature_figures import (
  plot_alignment,
  plot_block_mass,
  plot_blocks,
  plot_density,
  plot_spectrum,
)
from induction_jax.report.findings import Findings
from induction_jax.report.task_figures import plot_markov, plot_memory


class RunFigure(NamedTuple):
  """A figure of one run.

  Attributes:
    plot: draws the figure from the results and the findings.
    needs: a variable of the results without which there is nothing to draw.
  """

  plot: Callable[[xr.Dataset, Findings], Figure]
  needs: str


# By the name of the figure's file, in the order in which they are drawn.
FIGURES = {
  "transition": RunFigure(plot_transition, "prefix_matching"),
  "markov": RunFigure(plot_markov, "markov_loss"),
  "memory": RunFigure(plot_memory, "w_o2_recall"),
  "spectrum": RunFigure(plot_spectrum, "top_eigenvalues"),
  "alignment": RunFigure(plot_alignment, "top_eigenvalues"),
  "block_mass": RunFigure(plot_block_mass, "top_eigenvalues"),
  "density": RunFigure(plot_density, "density"),
  "blocks": RunFigure(plot_blocks, "block_norm"),
  "circuits": RunFigure(plot_circuits, "ov_copied_fraction"),
  "eigenvalues": RunFigure(plot_eigenvalues, "ov_copied_fraction"),
  # Networks of one layer have no pairs of heads.
  "composition": RunFigure(
    plot_compositions, "k_composed_matching_null_samples"
  ),
  "context": RunFigure(plot_context, "in_context_score"),
  "ablation": RunFigure(plot_ablation, "frozen_ablation_cost"),
  "paths": RunFigure(plot_paths, "frozen_ablation_cost"),
  "patterns": RunFigure(plot_patterns, "attention"),
}


def write_figures(
  directory: Path, results: xr.Dataset, findings: Findings, form: str
) -> list[Path]:
  """Draws every figure of the table for which the results have data.

  Args:
    directory: the directory of the figures, made if there is none.
    results: the run's results, with the variables of `run_sequence`.
    findings: its findings.
    form: file format: png, svg or pdf.

  Returns:
    The paths of the figures.
  """
  directory.mkdir(exist_ok=True)
  with style.paper_style():
    return [
      save_figure(plot(results, findings), directory / f"{name}.{form}")
      for name, (plot, needs) in FIGURES.items()
      if needs in results
    ]


def save_figure(figure: Figure, path: Path) -> Path:
  """Saves and closes a figure; equal figures make equal files."""
  figure.savefig(path, metadata={"Date": None} if path.suffix != ".png" else {})
  plt.close(figure)
  return path
