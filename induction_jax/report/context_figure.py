"""The figure of what the context does for the loss."""

import matplotlib.pyplot as plt
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from induction_jax.report import style
from induction_jax.report.findings import Findings, measured


def plot_context(results: xr.Dataset, findings: Findings) -> Figure:
  """Loss by occurrence, loss by position, and the in-context score."""
  figure, axes = plt.subplots(1, 3, figsize=(style.WIDTH, 2.8))
  _plot_occurrences(axes[0], results)
  _plot_positions(axes[1], results, findings)
  score = measured(results["in_context_score"])
  axes[2].plot(score.step, score, color=style.BLUE, label="score")
  null = float(results["in_context_score_null"])
  axes[2].axhline(null, label="null", **style.NULL_STYLE)
  axes[2].set_ylabel("in-context score (nats)")
  style.legend_above(axes[2], ncols=2)
  for ax in (axes[0], axes[2]):
    style.step_axis(ax, results.step.values, findings)
  return figure


def _plot_occurrences(ax: Axes, results: xr.Dataset) -> None:
  losses = measured(results["loss_by_occurrence"])
  numbers = losses.occurrence.values
  shown = [n for n in numbers if losses.sel(occurrence=n).notnull().any()]
  colors = plt.get_cmap("viridis_r")
  for i, number in enumerate(shown):
    pooled = "+" if number == numbers[-1] else ""
    ax.plot(
      losses.step,
      losses.sel(occurrence=number),
      color=colors(0.1 + 0.9 * i / max(len(shown) - 1, 1)),
      linewidth=1.0,
      label=f"{number}{pooled}",
    )
  null = float(results["loss_by_occurrence_null"])
  ax.axhline(null, label="uniform", **style.NULL_STYLE)
  ax.set_ylim(bottom=0)
  ax.set_ylabel("loss by occurrence (nats)")
  style.legend_above(ax, ncols=3)


def _plot_positions(ax: Axes, results: xr.Dataset, findings: Findings) -> None:
  losses = measured(results["loss_by_position"])
  steps = style.three_steps(losses, findings)
  window = max(losses.sizes["position"] // 16, 1)
  for step, color in zip(steps, (style.ORANGE, style.GREEN, style.BLUE)):
    line = losses.sel(step=step)
    smooth = line.rolling(position=window, center=True, min_periods=1).mean()
    ax.plot(line.position, line, color=color, linewidth=0.6, alpha=0.4)
    ax.plot(line.position, smooth, color=color, label=f"step {step}")
  null = float(results["loss_by_position_null"])
  ax.axhline(null, label="uniform", **style.NULL_STYLE)
  ax.set_ylim(bottom=0)
  ax.set_xlabel(f"position (bold: mean of {window})")
  ax.set_ylabel("loss by position (nats)")
  style.legend_above(ax, ncols=2)
