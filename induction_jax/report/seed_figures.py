"""Figures of a sweep: dates of the transition, and signals around it."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from induction_jax.report import style
from induction_jax.report.figures import save_figure
from induction_jax.report.findings import measured
from induction_jax.report.seeds import POINTS, Outcome, point_times
from induction_jax.transition.survival import Survival, survival

# The aligned signals with their labels and colours. The highest head and the
# extreme eigenvalue represent a variable with several of them.
SIGNALS = {
  "induction_accuracy": ("accuracy on repeats", style.BLUE),
  "induction_loss": ("loss on repeats (nats)", style.VERMILION),
  "prefix_matching": ("prefix matching,\nbest head", style.GREEN),
  "previous_token": ("previous token,\nbest head", style.PURPLE),
  "top_eigenvalues": ("top eigenvalue (nats)", style.BLUE),
  "bottom_eigenvalues": ("bottom eigenvalue (nats)", style.VERMILION),
  "preconditioned_top_eigenvalues": (
    "preconditioned top\neigenvalue (1)",
    style.GREEN,
  ),
  "top_alignment_total": (
    "share of gradient norm²\nin top space",
    style.PURPLE,
  ),
}
LOGARITHMIC = ("top_eigenvalues", "preconditioned_top_eigenvalues")
BAND = (0.1, 0.9)  # quantiles over seeds
POINT_COLORS = dict(zip(POINTS, (style.SKY, style.BLACK, style.VERMILION)))
GRID_SIZE = 201  # relative steps at which aligned curves are compared
MIN_SHARE = 0.5  # smallest share of the dated seeds in a median


def write_seed_figures(
  figures: Path, results: xr.Dataset, outcomes: Sequence[Outcome], form: str
) -> list[Path]:
  """Draws the figures of a sweep; without a dated transition there are none.

  Args:
    figures: the directory of the figures.
    results: results of all seeds, with a `seed` dimension.
    outcomes: outcomes of all seeds.
    form: file format: png, svg or pdf.

  Returns:
    The paths of the figures.
  """
  if not point_times(outcomes, "midpoint")[1].any():
    return []
  with style.paper_style():
    drawn = {
      "times": plot_times(outcomes),
      "aligned": plot_aligned(results, outcomes),
    }
    figures.mkdir(exist_ok=True)
    return [
      save_figure(figure, figures / f"{name}.{form}")
      for name, figure in drawn.items()
    ]


def plot_times(outcomes: Sequence[Outcome]) -> Figure:
  """The transition of each seed with its intervals, and the survival curve.

  An arrow is a seed whose midpoint was not seen and may come later.
  """
  rows = sorted(outcomes, key=_order)
  heights = [0.4 + 0.11 * len(rows), 1.5]
  figure, (forest, share) = plt.subplots(
    2,
    1,
    figsize=(style.WIDTH, sum(heights) + 0.5),
    height_ratios=heights,
    sharex=True,
  )
  low, high = _limits(outcomes)
  for i, each in enumerate(rows):
    _plot_seed(forest, i, each, high)
  forest.set_xlim(low, high)
  forest.set_ylim(len(rows) - 0.3, -0.7)
  forest.set_yticks(range(len(rows)), [str(each.seed) for each in rows])
  forest.tick_params(axis="y", labelsize=min(8, 5 + 24 / len(rows)))
  forest.set_ylabel("seed")
  for point, color in POINT_COLORS.items():
    forest.plot([], [], "o-", color=color, markersize=3, label=point)
  if any(each.transition.midpoint is None for each in outcomes):
    forest.plot([], [], ">", color="0.5", markersize=4, label="not seen")
  style.legend_above(forest, ncols=4)
  _plot_survival(share, outcomes, high)
  share.set_xlabel("training step")
  return figure


def plot_aligned(results: xr.Dataset, outcomes: Sequence[Outcome]) -> Figure:
  """Every signal around the midpoint, with median and 10-90 % band over seeds.

  Each curve is shifted by the midpoint of its own seed and interpolated
  linearly, so that nothing faster than the measuring interval is visible. Seeds
  without a midpoint are left out. Dotted lines are null values.
  """
  midpoints = {
    each.seed: each.transition.midpoint.estimate
    for each in outcomes
    if each.transition.midpoint is not None
  }
  grid = np.linspace(-1, 1, GRID_SIZE) * _reach(outcomes)
  shown = [name for name in SIGNALS if name in results]
  rows = -(-len(shown) // 2)
  figure, axes = plt.subplots(
    rows, 2, figsize=(style.WIDTH, 1.6 * rows), sharex=True, squeeze=False
  )
  for ax, name in zip(axes.ravel(), shown):
    _plot_signal(ax, results, name, midpoints, grid)
  for ax in axes.ravel()[len(shown) :]:
    ax.set_axis_off()
  for ax in axes[-1]:
    ax.set_xlabel("training steps from the seed's midpoint")
  figure.legend(handles=_legend(), loc="outside upper center", ncols=4)
  return figure


def _legend() -> list[Artist]:
  """Legend entries in grey, because every panel has its own colour."""
  return [
    Patch(color="0.3", alpha=0.25, linewidth=0, label="10 to 90 % of seeds"),
    Line2D([], [], color="0.3", label="median"),
    Line2D([], [], color="0.3", linewidth=0.4, label="each seed"),
    Line2D([], [], label="null", **style.NULL_STYLE),
  ]


def align(
  series: xr.DataArray, midpoints: dict[int, float], grid: np.ndarray
) -> np.ndarray:
  """Interpolates a signal [seed, step] around the midpoint of each seed.

  Args:
    series: the signal.
    midpoints: seed -> step of its midpoint, of N seeds.
    grid: [G] steps relative to the midpoint.

  Returns:
    The aligned curves [N, G], nan before the first and after the last
    measurement of a seed.
  """
  rows = []
  for seed, midpoint in midpoints.items():
    own = measured(series.sel(seed=seed))
    steps = own.step.values - midpoint
    rows.append(np.interp(grid, steps, own, left=np.nan, right=np.nan))
  return np.array(rows)


def _plot_signal(
  ax: Axes,
  results: xr.Dataset,
  name: str,
  midpoints: dict[int, float],
  grid: np.ndarray,
) -> None:
  label, color = SIGNALS[name]
  curves = align(_reduce(results[name]), midpoints, grid)
  known = np.mean(np.isfinite(curves), axis=0) >= MIN_SHARE
  ax.plot(grid, curves.T, color=color, alpha=0.2, linewidth=0.4)
  low, middle, high = np.nanquantile(
    curves[:, known], (BAND[0], 0.5, BAND[1]), axis=0
  )
  style.plot_band(ax, grid[known], low, high, color)
  ax.plot(grid[known], middle, color=color)
  if f"{name}_null" in results:
    style.plot_null(ax, results[f"{name}_null"].mean(), None)
  ax.axvline(0, color="0.6", linewidth=0.8, zorder=0)
  ax.set_xlim(grid[0], grid[-1])
  ax.set_ylabel(label)
  if name in LOGARITHMIC:
    style.log_axis(ax.yaxis)


def _reduce(variable: xr.DataArray) -> xr.DataArray:
  """Reduces a variable to [seed, step]: highest head or extreme eigenvalue."""
  if "head" in variable.dims:
    return variable.max(("layer", "head"))
  return variable[..., 0] if variable.ndim > 2 else variable


def _plot_seed(ax: Axes, row: int, each: Outcome, end: float) -> None:
  for point, color in POINT_COLORS.items():
    interval = getattr(each.transition, point)
    if interval is not None:
      ax.plot([interval.low, interval.high], [row, row], color=color)
      ax.plot(interval.estimate, row, "o", color=color, markersize=3)
  if each.transition.midpoint is None:
    why = f"{each.status}, step {each.last_step}"
    ax.plot(end, row, ">", color="0.5", markersize=4, clip_on=False)
    ax.annotate(
      why,
      (end, row),
      xytext=(-6, 0),
      textcoords="offset points",
      ha="right",
      va="center",
      fontsize=6,
      color="0.4",
    )


def _plot_survival(ax: Axes, outcomes: Sequence[Outcome], end: float) -> None:
  curve = _extended(survival(*point_times(outcomes, "midpoint")), end)
  ax.fill_between(
    curve.times, curve.low, curve.high, step="post", color="0.85", linewidth=0
  )
  ax.step(curve.times, curve.share, where="post", color=style.BLACK)
  style.plot_null(ax, 0.5, None)
  ax.set_ylim(-0.02, 1.04)
  ax.set_yticks([0, 0.25, 0.5, 0.75, 1])
  ax.set_ylabel("share of seeds\nbefore midpoint")


def _extended(curve: Survival, end: float) -> Survival:
  """Extends a survival curve to step 0 and to the end of the axis."""
  last = (curve.share[-1], curve.low[-1], curve.high[-1])
  times = np.concatenate([[0], curve.times, [max(end, curve.times[-1])]])
  shares = (
    np.concatenate([[1], values, [value]])
    for values, value in zip(curve[1:], last)
  )
  return Survival(times, *shares)


def _limits(outcomes: Sequence[Outcome]) -> tuple[float, float]:
  """The range of steps of all intervals, with a margin."""
  intervals = [
    interval
    for each in outcomes
    for point in POINTS
    if (interval := getattr(each.transition, point)) is not None
  ]
  low = min(interval.low for interval in intervals)
  high = max(interval.high for interval in intervals)
  margin = 0.05 * (high - low)
  return max(low - margin, 0.0), high + margin


def _reach(outcomes: Sequence[Outcome]) -> float:
  """Steps shown on both sides: four times the median transition's length."""
  widths = [
    each.transition.completion.estimate - each.transition.onset.estimate
    for each in outcomes
    if each.transition.onset is not None
    and each.transition.completion is not None
  ]
  if widths:
    return 4 * float(np.median(widths))
  return 0.25 * max(each.last_step for each in outcomes)


def _order(each: Outcome) -> tuple[bool, float]:
  midpoint = each.transition.midpoint
  if midpoint is None:
    return True, float(each.last_step)
  return False, midpoint.estimate
