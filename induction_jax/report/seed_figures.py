"""The figures of a sweep: when each seed turned, and how, seen together."""

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
from induction_jax.report.findings import measured
from induction_jax.report.seeds import EVENTS, Outcome, event_times
from induction_jax.report.write import save_figure
from induction_jax.transition.survival import Survival, survival

# What is drawn of each seed, [seed, step], where it was measured. Of heads
# the best at every step, of eigenvalues the extreme one.
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
EVENT_COLORS = dict(zip(EVENTS, (style.SKY, style.BLACK, style.VERMILION)))
POINTS = 201  # at which aligned curves are compared
# The least share of the dated seeds behind a median.
LEAST_SHARE = 0.5


def write_seed_figures(
  figures: Path, results: xr.Dataset, outcomes: Sequence[Outcome], form: str
) -> list[Path]:
  """Draws the figures for which there is data; returns their paths.

  Args:
    figures: the directory.
    results: with a `seed` dimension.
    outcomes: of all seeds.
    form: file format: png, svg or pdf.
  """
  if not event_times(outcomes, "midpoint")[1].any():
    return []  # no seed's transition was seen
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
  """Each seed's transition with its intervals, above the survival curve.

  An arrow is a seed whose midpoint was not seen; it may come later.
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
  for event, color in EVENT_COLORS.items():
    forest.plot([], [], "o-", color=color, markersize=3, label=event)
  if any(each.transition.midpoint is None for each in outcomes):
    forest.plot([], [], ">", color="0.5", markersize=4, label="not seen")
  style.legend_above(forest, ncols=4)
  _plot_survival(share, outcomes, high)
  share.set_xlabel("training step")
  return figure


def plot_aligned(results: xr.Dataset, outcomes: Sequence[Outcome]) -> Figure:
  """Every signal around the midpoint: median and 10-90 % band over seeds.

  Each seed's curve is moved by its own midpoint and drawn straight between
  its measurements, so nothing faster than their interval can be seen. Seeds
  without a midpoint are in the other figure alone. Dotted lines are nulls.
  """
  midpoints = {
    each.seed: each.transition.midpoint.estimate
    for each in outcomes
    if each.transition.midpoint is not None
  }
  grid = np.linspace(-1, 1, POINTS) * _reach(outcomes)
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
  """In grey, for every panel has a colour of its own."""
  return [
    Patch(color="0.3", alpha=0.25, linewidth=0, label="10 to 90 % of seeds"),
    Line2D([], [], color="0.3", label="median"),
    Line2D([], [], color="0.3", linewidth=0.4, label="each seed"),
    Line2D([], [], label="null", **style.NULL_STYLE),
  ]


def align(
  series: xr.DataArray, midpoints: dict[int, float], grid: np.ndarray
) -> np.ndarray:
  """A signal [seed, step] at steps relative to each midpoint, [N, grid].

  nan beyond a seed's first and last measurement.
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
  known = np.mean(np.isfinite(curves), axis=0) >= LEAST_SHARE
  ax.plot(grid, curves.T, color=color, alpha=0.2, linewidth=0.4)
  low, middle, high = np.nanquantile(
    curves[:, known], (BAND[0], 0.5, BAND[1]), axis=0
  )
  ax.fill_between(grid[known], low, high, color=color, alpha=0.25, linewidth=0)
  ax.plot(grid[known], middle, color=color)
  if f"{name}_null" in results:
    null = float(results[f"{name}_null"].mean())
    ax.axhline(null, **style.NULL_STYLE)
  ax.axvline(0, color="0.6", linewidth=0.8, zorder=0)
  ax.set_xlim(grid[0], grid[-1])
  ax.set_ylabel(label)
  if name in LOGARITHMIC:
    style.log_axis(ax.yaxis)


def _reduce(variable: xr.DataArray) -> xr.DataArray:
  """[seed, step]: the best head, the extreme eigenvalue, or as it is."""
  if "head" in variable.dims:
    return variable.max(("layer", "head"))
  return variable[..., 0] if variable.ndim > 2 else variable


def _plot_seed(ax: Axes, row: int, each: Outcome, end: float) -> None:
  for event, color in EVENT_COLORS.items():
    interval = getattr(each.transition, event)
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
  curve = _extended(survival(*event_times(outcomes, "midpoint")), end)
  ax.fill_between(
    curve.times, curve.low, curve.high, step="post", color="0.85", linewidth=0
  )
  ax.step(curve.times, curve.share, where="post", color=style.BLACK)
  ax.axhline(0.5, **style.NULL_STYLE)
  ax.set_ylim(-0.02, 1.04)
  ax.set_yticks([0, 0.25, 0.5, 0.75, 1])
  ax.set_ylabel("share of seeds\nbefore midpoint")


def _extended(curve: Survival, end: float) -> Survival:
  """From step 0, with nothing happened, on to the end of the axis."""
  last = (curve.share[-1], curve.low[-1], curve.high[-1])
  times = np.concatenate([[0], curve.times, [max(end, curve.times[-1])]])
  shares = (
    np.concatenate([[1], values, [value]])
    for values, value in zip(curve[1:], last)
  )
  return Survival(times, *shares)


def _limits(outcomes: Sequence[Outcome]) -> tuple[float, float]:
  """Steps that hold every interval, and a margin."""
  intervals = [
    interval
    for each in outcomes
    for event in EVENTS
    if (interval := getattr(each.transition, event)) is not None
  ]
  low = min(interval.low for interval in intervals)
  high = max(interval.high for interval in intervals)
  margin = 0.05 * (high - low)
  return max(low - margin, 0.0), high + margin


def _reach(outcomes: Sequence[Outcome]) -> float:
  """How far to look on both sides: four times the usual transition."""
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
