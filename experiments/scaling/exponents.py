"""Exponents of the measured costs, as a table and a figure."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter, NullLocator

from experiments.scaling.axes import AXES, MARGIN, MEASUREMENTS, Expected
from experiments.shared.reporting import Table
from induction_jax.report import style

COLORS = dict(
  zip(
    MEASUREMENTS,
    (style.BLACK, style.SKY, style.GREEN, style.ORANGE, style.VERMILION),
  )
)
MARKERS = dict(zip(MEASUREMENTS, "os^Dv"))
QUANTITIES = {"seconds": "time, s", "bytes": "memory, MB"}
UNITS = {"seconds": 1.0, "bytes": 2.0**-20}
COLUMNS = 4
HEADROOM = 1.5  # height of a panel over its curves, for the text


class Growth(NamedTuple):
  """Exponents of one curve."""

  fitted: float  # over all sizes
  last: float  # between the last two


class Row(NamedTuple):
  """One measurement along one axis."""

  axis: str
  measurement: str
  expected: Expected
  time: Growth
  memory: Growth


def growth(sizes: list[int], values: list[float]) -> Growth:
  """Log-log slopes: by least squares, and between the last two sizes."""
  x, y = np.log(sizes), np.log(values)
  last = (y[-1] - y[-2]) / (x[-1] - x[-2])
  return Growth(float(np.polyfit(x, y, 1)[0]), float(last))


def find_rows(figures: Mapping[str, Any]) -> Iterator[Row]:
  """The exponents of every curve, with the expected ones."""
  for name, axis in AXES.items():
    if name not in figures:
      continue
    sizes = figures[name]["sizes"]
    for measurement, expected in axis.expected.items():
      found = figures[name][measurement]
      yield Row(
        name,
        measurement,
        expected,
        growth(sizes, found["seconds"]),
        growth(sizes, found["bytes"]),
      )


def make_table(figures: Mapping[str, Any]) -> Table:
  """Fitted, last and expected exponents; "!" marks an excess over MARGIN."""
  rows = []
  for row in find_rows(figures):
    cells = (
      f"{found.fitted:.2f}, {found.last:.2f} ({expected:g})"
      + (" !" if max(found) > expected + MARGIN else "")
      for found, expected in (
        (row.time, row.expected.time),
        (row.memory, row.expected.memory),
      )
    )
    rows.append([row.axis, row.measurement, *cells, row.expected.why])
  columns = ["axis", "of", "time", "memory", "because of"]
  return Table(columns, [""] * len(columns), rows)


def draw(figures: Mapping[str, Any], path: Path) -> None:
  """Draws time above memory for every axis."""
  names = [name for name in AXES if name in figures]
  height = 2 * -(-len(names) // COLUMNS)
  with style.paper_style():
    figure, grid = plt.subplots(
      height,
      COLUMNS,
      figsize=(style.WIDTH, 1.8 * height),
      squeeze=False,
      sharey="row",
    )
    for ax in grid.flat:
      ax.set_visible(False)
    for i, name in enumerate(names):
      row, column = 2 * (i // COLUMNS), i % COLUMNS
      for below, quantity in enumerate(QUANTITIES):
        ax = grid[row + below, column]
        ax.set_visible(True)
        draw_panel(ax, figures[name], name, quantity)
        if column == 0:
          ax.set_ylabel(QUANTITIES[quantity])
      grid[row, column].set_title(AXES[name].title)
      grid[row + 1, column].set_xlabel(name)
    for ax in grid[:, 0]:  # the others share its limits
      low, high = ax.get_ylim()
      ax.set_ylim(low, low * (high / low) ** HEADROOM)
    _legend(figure)
    figure.savefig(path)
    plt.close(figure)


def draw_panel(
  ax: Axes, found: Mapping[str, Any], name: str, quantity: str
) -> None:
  """Curves of one axis, their exponents and, dotted, the expected slopes."""
  sizes = np.array(found["sizes"])
  ax.set_xscale("log")
  ax.set_yscale("log")
  for line, measurement in enumerate(AXES[name].expected):
    color = COLORS[measurement]
    values = UNITS[quantity] * np.array(found[measurement][quantity])
    expected = AXES[name].expected[measurement]
    slope = expected.time if quantity == "seconds" else expected.memory
    ax.plot(
      sizes, values, color=color, marker=MARKERS[measurement], markersize=2.5
    )
    guide = values[-1] * (sizes[-2:] / sizes[-1]) ** slope
    ax.plot(sizes[-2:], guide, color=color, linestyle=":", linewidth=0.9)
    exponents = growth(list(sizes), list(values))
    ax.text(
      0.03,
      0.99 - 0.085 * line,
      # Adding 0 turns -0.0 into 0.0.
      f"{round(exponents.fitted, 1) + 0:.1f}, "
      f"{round(exponents.last, 1) + 0:.1f} ({slope:g})",
      color=color,
      fontsize=6,
      transform=ax.transAxes,
      va="top",
    )
  ax.set_xticks(sizes, [str(n) for n in sizes])
  ax.xaxis.set_minor_locator(NullLocator())
  ax.xaxis.set_minor_formatter(NullFormatter())


def _legend(figure: plt.Figure) -> None:
  handles = [
    plt.Line2D(
      [], [], color=COLORS[m], marker=MARKERS[m], markersize=2.5, label=m
    )
    for m in MEASUREMENTS
  ]
  handles.append(
    plt.Line2D([], [], color="0.4", linestyle=":", label="expected slope")
  )
  figure.legend(
    handles=handles,
    loc="outside upper center",
    ncols=6,
    frameon=False,
    title="exponents: fitted, of the last doubling (expected)",
    title_fontsize=7,
  )
