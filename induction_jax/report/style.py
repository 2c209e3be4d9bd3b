"""The look of the figures, and the elements that several of them share.

Colours are distinguishable with any common colour vision, and sizes are legible
in print. On a step axis the grey band is the transition from onset to
completion and the line in it the midpoint. Dotted grey lines are null values.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.axis import YAxis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from induction_jax.report.findings import Findings, Head, head_name, measured

# The palette of Okabe and Ito (2008).
BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
  "#000000",
  "#E69F00",
  "#56B4E9",
  "#009E73",
  "#F0E442",
  "#0072B2",
  "#D55E00",
  "#CC79A7",
)
# Layers differ in colour, and the heads of a layer in line style.
LAYER_COLORS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
HEAD_STYLES = ("-", "--", "-.", ":")
# Before, at and after the transition.
STEP_COLORS = (ORANGE, GREEN, BLUE)
NULL_STYLE: dict[str, Any] = {
  "color": "0.45",
  "linewidth": 1.0,
  "linestyle": (0, (1, 1)),
}
WIDTH = 7.0  # inches: a text width


@contextmanager
def paper_style() -> Iterator[None]:
  """A context with the matplotlib settings of all figures."""
  settings: Any = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 6.5,
    "legend.framealpha": 0.75,
    "legend.edgecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.2,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 200,
    "pdf.fonttype": 42,  # text stays text
    "svg.fonttype": "none",
    "svg.hashsalt": "induction_jax",  # equal runs, equal files
  }
  with mpl.rc_context(settings):
    yield


def log_axis(axis: YAxis) -> None:
  """Makes an axis logarithmic, with plain numbers as tick labels.

  Axes of up to two decades have ticks at 1, 2 and 5 times the powers of ten.
  """
  axis.axes.set_yscale("log")
  low, high = axis.get_view_interval()
  digits = (1.0, 2.0, 5.0) if high < 100 * low else (1.0,)
  axis.set_major_locator(LogLocator(subs=digits))
  axis.set_major_formatter(StrMethodFormatter("{x:g}"))
  axis.set_minor_formatter(NullFormatter())


def legend_above(ax: Axes, **settings: Any) -> None:
  """Draws a legend above the axes, where it hides no curve."""
  legend = ax.legend(
    loc="lower left",
    bbox_to_anchor=(0, 1, 1, 0),
    mode="expand",
    borderaxespad=0.2,
    handlelength=1.8,
    frameon=False,
    **settings,
  )
  for line in legend.get_lines():  # the dashes of a thick line do not fit
    line.set_linewidth(min(line.get_linewidth(), 1.0))


def head_line(layer: int, head: int) -> dict[str, Any]:
  """The line style of a head: colour by layer, dashes by head.

  Heads from the fifth on repeat the dashes in a paler colour.
  """
  return {
    "alpha": max(0.25, 1.0 - 0.5 * (head // len(HEAD_STYLES))),
    "color": LAYER_COLORS[layer % len(LAYER_COLORS)],
    "linestyle": HEAD_STYLES[head % len(HEAD_STYLES)],
  }


def plot_curve(
  ax: Axes, series: xr.DataArray, label: str, color: str, **line: Any
) -> None:
  """Plots a series [step] at the steps at which it was measured."""
  series = measured(series)
  ax.plot(series.step, series, label=label, color=color, **line)


def plot_heads(
  ax: Axes, scores: xr.DataArray, best: Head | None = None
) -> None:
  """Plots a score [step, layer, head] of every head, the best one thick."""
  scores = measured(scores)
  for layer, head in np.ndindex(scores.shape[1:]):
    is_best = best is not None and (layer, head) == (best.layer, best.head)
    ax.plot(
      scores.step,
      scores[:, layer, head],
      label=head_name(layer, head),
      linewidth=2.0 if is_best else 0.9,
      **head_line(layer, head),
    )


def plot_null(
  ax: Axes,
  null: xr.DataArray | float,
  label: str | None = "null",
  **line: Any,
) -> None:
  """Draws a line at a null value, the largest one if there are several."""
  ax.axhline(float(np.max(null)), label=label, **NULL_STYLE | line)


def plot_band(
  ax: Axes, x: Any, low: Any, high: Any, color: str, alpha: float = 0.25
) -> None:
  """Shades the band between two curves."""
  ax.fill_between(x, low, high, color=color, alpha=alpha, linewidth=0)


def write_instead(ax: Axes, text: str) -> None:
  """Writes why a panel is empty in place of its axes."""
  ax.axis("off")
  ax.text(0.5, 0.5, text, ha="center", va="center", transform=ax.transAxes)


def step_axis(ax: Axes, steps: np.ndarray, findings: Findings) -> None:
  """Scales the step axis and marks the transition on it.

  The axis is logarithmic if the transition comes in the first tenth of the
  run.
  """
  transition = findings.transition
  if transition.midpoint is not None:
    if transition.midpoint.estimate < steps[-1] / 10:
      ax.set_xscale("log")
      ax.set_xlim(max(steps[steps > 0].min(), steps[-1] / 1000), steps[-1])
    onset, completion = transition.onset, transition.completion
    if onset is not None and completion is not None:
      ax.axvspan(
        onset.estimate,
        min(completion.estimate, steps[-1]),
        color="0.88",
        linewidth=0,
        zorder=0,
      )
    ax.axvline(
      transition.midpoint.estimate, color="0.6", linewidth=0.8, zorder=0
    )
  ax.set_xlabel("training step")


def transition_ends(findings: Findings) -> list[float]:
  """The steps of onset and completion, without those that are not dated."""
  transition = findings.transition
  return [
    point.estimate
    for point in (transition.onset, transition.completion)
    if point is not None
  ]


def three_steps(series: xr.DataArray, findings: Findings) -> list[int]:
  """Measured steps before the onset, at the midpoint and after completion.

  Without a transition they are the first, the middle and the last step.
  """
  steps, transition = series.step.values, findings.transition
  last = len(steps) - 1
  if transition.onset is None or transition.midpoint is None:
    return sorted({int(steps[i]) for i in (0, len(steps) // 2, last)})
  onset, midpoint = transition.onset.estimate, transition.midpoint.estimate
  before = max(int(np.searchsorted(steps, onset, side="right")) - 1, 0)
  middle = int(np.argmin(np.abs(steps - midpoint)))
  after = last
  if transition.completion is not None:
    past = int(np.searchsorted(steps, transition.completion.estimate))
    after = min(max(past, middle + 1), last)
  return sorted({int(steps[i]) for i in (before, middle, after)})


class Zoom(NamedTuple):
  """A stretch of a run that was measured again more densely."""

  first: int
  last: int
  every: int


def find_zoom(results: xr.Dataset, measurement: str) -> Zoom | None:
  """The newest zoom of a measurement that spans more than one step."""
  zooms = [
    Zoom(each["from"], each["to"], each["every"])
    for each in json.loads(results.attrs.get("zoomed", "[]"))
    # results.nc of earlier versions call the measurement a probe.
    if each.get("measurement", each.get("probe")) == measurement
    and each["from"] < each["to"]
  ]
  return zooms[-1] if zooms else None


def plot_zoomed(
  draw: Callable[[np.ndarray], None],
  rows: int,
  height: float,
  results: xr.Dataset,
  findings: Findings,
  zoom: Zoom,
) -> Figure:
  """Draws panels twice: over the run, and over a zoom to the right of it.

  Args:
    draw: draws all panels on axes [rows].
    rows: number of panels.
    height: of a panel, in inches.
    results: results of the run.
    findings: its findings.
    zoom: the stretch that the panels on the right show.
  """
  figure, axes = plt.subplots(
    rows,
    2,
    figsize=(WIDTH, height * rows),
    sharex="col",
    sharey="row",
    width_ratios=(3, 2),
  )
  for column in axes.T:
    draw(column)
  finish_rows(axes, results, findings)
  for run, closer in axes:
    _mark_zoom(run, closer, zoom)
  often = "every step" if zoom.every == 1 else f"every {zoom.every} steps"
  axes[0, 1].set_title(f"zoom: {often}")
  return figure


def finish_rows(
  axes: np.ndarray, results: xr.Dataset, findings: Findings
) -> None:
  """Marks the transition in all panels; only the last row has a label."""
  for ax in np.ravel(axes):
    step_axis(ax, results.step.values, findings)
  if axes.ndim == 2:
    for ax in axes[:-1].ravel():
      ax.set_xlabel("")


def _mark_zoom(run: Axes, closer: Axes, zoom: Zoom) -> None:
  """Restricts `closer` to the zoom, and frames the zoom in `run`."""
  closer.set_xscale("linear")
  closer.set_xlim(zoom.first, zoom.last)
  closer.set_ylabel("")
  closer.tick_params(labelleft=False)
  if legend := closer.get_legend():
    legend.remove()
  for spine in closer.spines.values():
    spine.set(visible=True, color="0.6", linewidth=0.6)
  run.axvspan(
    zoom.first,
    zoom.last,
    facecolor="none",
    edgecolor="0.6",
    linewidth=0.6,
    zorder=0,
  )
