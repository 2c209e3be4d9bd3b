"""How figures look: legible in print, safe for the colour blind."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.axis import YAxis
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from induction_jax.report.findings import Findings

# Okabe and Ito (2008): distinguishable with any common colour vision.
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
# One colour a layer; heads of a layer differ in line style.
LAYER_COLORS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
HEAD_STYLES = ("-", "--", "-.", ":")
NULL_STYLE: dict[str, Any] = {
  "color": "0.45",
  "linewidth": 1.0,
  "linestyle": (0, (1, 1)),
}
WIDTH = 7.0  # inches: a text width


@contextmanager
def paper_style() -> Iterator[None]:
  """Settings for figures of a paper, undone afterwards."""
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
  """A logarithmic axis with plain numbers, of 1, 2 and 5 if it is short."""
  axis.axes.set_yscale("log")
  low, high = axis.get_view_interval()
  digits = (1.0, 2.0, 5.0) if high < 100 * low else (1.0,)
  axis.set_major_locator(LogLocator(subs=digits))
  axis.set_major_formatter(StrMethodFormatter("{x:g}"))
  axis.set_minor_formatter(NullFormatter())


def legend_above(ax: Axes, **settings: Any) -> None:
  """A legend over the axes and as wide, where it cannot hide a curve."""
  legend = ax.legend(
    loc="lower left",
    bbox_to_anchor=(0, 1, 1, 0),
    mode="expand",
    borderaxespad=0.2,
    handlelength=1.8,
    frameon=False,
    **settings,
  )
  for line in legend.get_lines():  # dashes of a thick line do not fit
    line.set_linewidth(min(line.get_linewidth(), 1.0))


def head_line(layer: int, head: int) -> dict[str, Any]:
  """Line style of a head: colour by layer, dashes by head, paler from 4 on."""
  return {
    "alpha": max(0.25, 1.0 - 0.5 * (head // len(HEAD_STYLES))),
    "color": LAYER_COLORS[layer % len(LAYER_COLORS)],
    "linestyle": HEAD_STYLES[head % len(HEAD_STYLES)],
  }


def step_axis(axes: Axes, steps: np.ndarray, findings: Findings) -> None:
  """Scales the step axis and marks the transition on it.

  Logarithmic where the transition fills little of the run.
  """
  transition = findings.transition
  if transition.midpoint is not None:
    if transition.midpoint.estimate < steps[-1] / 10:
      axes.set_xscale("log")
      axes.set_xlim(max(steps[steps > 0].min(), steps[-1] / 1000), steps[-1])
    onset, completion = transition.onset, transition.completion
    if onset is not None and completion is not None:
      axes.axvspan(
        onset.estimate,
        min(completion.estimate, steps[-1]),
        color="0.88",
        linewidth=0,
        zorder=0,
      )
    axes.axvline(
      transition.midpoint.estimate, color="0.6", linewidth=0.8, zorder=0
    )
  axes.set_xlabel("training step")


class Zoom(NamedTuple):
  """A stretch of a run that was measured more closely."""

  first: int
  last: int
  every: int


def find_zoom(results: xr.Dataset, probe: str) -> Zoom | None:
  """The newest zoom that a probe took part in, if it is more than a step."""
  zooms = [
    Zoom(each["from"], each["to"], each["every"])
    for each in json.loads(results.attrs.get("zoomed", "[]"))
    if each["measurement"] == probe and each["from"] < each["to"]
  ]
  return zooms[-1] if zooms else None


def mark_zoom(run: Axes, closer: Axes, zoom: Zoom) -> None:
  """Makes `closer`, which shows the same as `run`, a zoom; frames it there."""
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


def describe_zoom(zoom: Zoom) -> str:
  """What a zoomed panel is of."""
  often = "every step" if zoom.every == 1 else f"every {zoom.every} steps"
  return f"zoom: {often}"


def three_steps(series: xr.DataArray, findings: Findings) -> list[int]:
  """Measured steps before the onset, nearest the midpoint, past completion.

  Without a transition the first, the middle and the last.
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
