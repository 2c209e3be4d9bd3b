"""Figures of the circuits: scores of heads, eigenvalues, and compositions."""

import itertools
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from induction_jax import circuits
from induction_jax.report import style
from induction_jax.report.findings import (
  Findings,
  Head,
  head_name,
  head_names,
  measured,
)
from induction_jax.transition.lead_lag import holm

LINEAR_WIDTH = 0.5  # eigenvalues up to here lie on a linear scale
LEVEL = 0.05  # family-wise significance level of all pairs of a matrix
NUMBERED_READERS = 2  # a matrix of at most so many rows shows its numbers


class Pairs(NamedTuple):
  """A measure of pairs of heads, and how it is drawn."""

  name: str
  title: str
  limits: tuple[float, float]
  colors: str


def plot_circuits(results: xr.Dataset, findings: Findings) -> Figure:
  """QK matching against OV copying, and the share of tokens that OV copies.

  Grey bands are two standard deviations of random circuits. A dot is the last
  measurement. The induction head and the previous-token head are thick and
  have their names.
  """
  figure, axes = plt.subplots(1, 2, figsize=(style.WIDTH, 3.3))
  copying, copied = results["ov_copying"], results["ov_copied_fraction"]
  _plot_head_paths(axes[0], results["qk_matching"], copying, findings)
  _plot_head_paths(axes[1], copied.step, copied, findings)
  for name, span in (
    ("qk_matching", axes[0].axvspan),
    ("ov_copying", axes[0].axhspan),
  ):
    spread = 2 * float(results[f"{name}_null_sd"])
    span(-spread, spread, color="0.6", alpha=0.25, linewidth=0, zorder=0)
  ticks = (-1, -0.5, 0, 0.5, 1)
  axes[0].set(xlim=(-1.08, 1.08), xticks=ticks, xlabel="QK matching score")
  axes[0].set(ylim=(-1.2, 1.2), yticks=ticks, ylabel="OV copying score")
  for layer in range(results.sizes["layer"]):
    color = style.head_line(layer, 0)["color"]
    axes[0].plot([], [], color=color, label=f"layer {layer}")
  axes[0].fill_between([], [], color="0.6", alpha=0.25, label="null ± 2 sd")
  null = float(results["ov_copied_fraction_null"])
  style.plot_null(axes[1], null, f"null {null:.3g}")
  axes[1].set(ylim=(-0.1, 1.1), ylabel="share of tokens that OV copies (top k)")
  style.step_axis(axes[1], results.step.values, findings)
  for ax in axes:
    style.legend_above(ax, ncols=4)
  return figure


def plot_eigenvalues(results: xr.Dataset, findings: Findings) -> Figure:
  """Paths of the OV and QK eigenvalues of two heads in the complex plane.

  The heads are the induction head and the previous-token head. White lines in
  the colour bar are the onset and the completion of the transition.
  """
  figure, axes = plt.subplots(2, 2, figsize=(style.WIDTH, 5.2))
  previous = findings.previous_token_head
  heads = (
    (findings.induction_head, findings.induction_head_label),
    (previous, f"best previous-token head {previous.name}"),
  )
  for row, (head, label) in zip(axes, heads):
    for ax, circuit in zip(row, ("ov", "qk")):
      lines = _plot_eigenvalue_paths(ax, results, circuit, head)
      ax.set_title(f"{circuit.upper()}, {label}")
  bar = figure.colorbar(lines, ax=axes, label="training step", shrink=0.8)
  for step in style.transition_ends(findings):
    bar.ax.axhline(step, color="white", linewidth=1.5)
  return figure


def plot_compositions(results: xr.Dataset, findings: Findings) -> Figure:
  """Composition of every pair of heads before, at and after the transition.

  A dot marks a pair that is significant against random circuits at LEVEL,
  corrected for all pairs of its matrix (Holm). The random circuits have the
  spectra of the two heads for the compositions, and are Gaussian for K-composed
  matching. Matrices with few pairs show their numbers.
  """
  steps = style.three_steps(measured(results["k_composition"]), findings)
  most = max(float(results[f"{x}_composition"].max()) for x in "qkv")
  columns = [
    Pairs(f"{x}_composition", f"{x.upper()}-composition", (0, most), "viridis")
    for x in "qkv"
  ]
  columns.append(
    Pairs("k_composed_matching", "K-composed matching", (-1, 1), "PuOr_r")
  )
  readers = (results.sizes["layer"] - 1) * results.sizes["head"]
  height = 1.75 if readers > 1 else 1.2
  figure, axes = plt.subplots(
    len(steps),
    len(columns),
    figsize=(style.WIDTH, height * len(steps) + 0.5),
    sharex=True,
    sharey=True,
    squeeze=False,
  )
  for column, pairs in zip(axes.T, columns):
    for ax, step in zip(column, steps):
      image = _plot_pairs(ax, results, pairs, step)
    column[0].set_title(pairs.title)
    column[-1].set_xlabel("writing head")
    if pairs.name == "v_composition":
      _composition_bar(figure, axes[:, :3], image, results)
  figure.colorbar(image, ax=axes[:, 3], location="bottom", label="score")
  for ax, step in zip(axes[:, 0], steps):
    ax.set_ylabel(f"step {step}\nreading head")
  return figure


def _plot_head_paths(
  ax: Axes, across: xr.DataArray, up: xr.DataArray, findings: Findings
) -> None:
  """A path for each head in the plane of two variables."""
  up = measured(up)
  across = xr.broadcast(across.sel(step=up.step), up)[0]
  both = findings.induction_head, findings.previous_token_head
  best = {(head.layer, head.head) for head in both}
  ends = {}
  for layer, head in np.ndindex(up.shape[1:]):
    x, y = across[:, layer, head], up[:, layer, head]
    line = style.head_line(layer, head)
    is_best = (layer, head) in best
    ax.plot(x, y, linewidth=1.4 if is_best else 0.6, **line)
    ax.plot(x[-1], y[-1], "o", markersize=4, color=line["color"])
    if is_best:
      ends[head_name(layer, head)] = float(x[-1]), float(y[-1])
  _name_ends(ax, ends)


def _name_ends(ax: Axes, ends: dict[str, tuple[float, float]]) -> None:
  """Writes the names of at most two heads where their lines end.

  The higher one has its name above its end and the lower one below it, so that
  the names never overlap.
  """
  from_the_top = sorted(ends, key=lambda name: -ends[name][1])
  for name, side in zip(from_the_top, (1, -1)):
    ax.annotate(
      name,
      ends[name],
      textcoords="offset points",
      xytext=(0, 9 * side),
      ha="center",
      va="center",
      fontsize=7,
    )


def _plot_eigenvalue_paths(
  ax: Axes, results: xr.Dataset, circuit: str, head: Head
) -> LineCollection:
  """Paths coloured by step, with a dot at each end."""
  real, imag = (
    measured(results[f"{circuit}_eigenvalues_{part}"])[:, head.layer, head.head]
    for part in ("real", "imag")
  )
  paths = circuits.track_eigenvalues(real.values + 1j * imag.values)
  points = np.stack([paths.real, paths.imag], axis=-1)  # [N, K, 2]
  pieces = np.stack([points[:-1], points[1:]], axis=2)  # [N - 1, K, 2, 2]
  steps = real.step.values
  lines = LineCollection(
    list(pieces.reshape(-1, 2, 2)),
    array=np.repeat(steps[1:], paths.shape[1]),
    norm=Normalize(steps[0], steps[-1]),
    cmap="viridis",
    linewidth=0.9,
  )
  ax.axhline(0, color="0.8", linewidth=0.6, zorder=0)
  ax.axvline(0, color="0.8", linewidth=0.6, zorder=0)
  ax.add_collection(lines)
  ax.plot(
    *points[-1].T, "o", markersize=3.5, color=style.BLACK, markerfacecolor="w"
  )
  # One eigenvalue may be a hundred times as large as the others.
  ax.set_xscale("asinh", linear_width=LINEAR_WIDTH)
  ax.set_yscale("asinh", linear_width=LINEAR_WIDTH)
  ax.autoscale_view()
  for axis in (ax.xaxis, ax.yaxis):
    axis.set_major_locator(
      FixedLocator(_asinh_ticks(*axis.get_view_interval()))
    )
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_locator(NullLocator())
  ax.set(xlabel="Re λ (asinh scale)", ylabel="Im λ (asinh scale)")
  return lines


def _asinh_ticks(low: float, high: float) -> list[float]:
  """Round numbers between two limits that are far enough apart for labels."""
  round_numbers = [0.0]
  for digit, power in itertools.product((1, 5, 2), (0, 1, -1, 2, 3, -2)):
    round_numbers += [digit * 10.0**power, -digit * 10.0**power]
  place = {x: np.arcsinh(x / LINEAR_WIDTH) for x in (low, high, *round_numbers)}
  least = (place[high] - place[low]) / 9
  ticks: list[float] = []
  for x in round_numbers:
    apart = all(abs(place[x] - place[tick]) >= least for tick in ticks)
    if low <= x <= high and apart:
      ticks.append(x)
  return ticks


def _plot_pairs(
  ax: Axes, results: xr.Dataset, pairs: Pairs, step: int
) -> AxesImage:
  """A matrix of readers by writers, without readers in the first layer."""
  found = results[pairs.name].sel(step=step).values
  n_heads = results.sizes["head"]
  names = head_names(results)

  def shown(x: np.ndarray) -> np.ndarray:
    return x.reshape(len(names), -1)[n_heads:, :-n_heads]

  low, high = pairs.limits
  image = ax.imshow(shown(found), vmin=low, vmax=high, cmap=pairs.colors)
  significant = holm(_p_values(results, pairs.name, step)) < LEVEL
  readers, writers = np.nonzero(shown(significant))
  ax.plot(
    writers,
    readers,
    "o",
    markersize=3,
    color="white",
    markeredgecolor="black",
    markeredgewidth=0.5,
  )
  if shown(found).shape[0] <= NUMBERED_READERS:
    _write_numbers(ax, image, shown(found))
  readable = 7 if len(names) <= 16 else 4
  writing, reading = names[:-n_heads], names[n_heads:]
  ax.set_xticks(range(len(writing)), writing, rotation=90, fontsize=readable)
  ax.set_yticks(range(len(reading)), reading, fontsize=readable)
  return image


def _write_numbers(ax: Axes, image: AxesImage, shown: np.ndarray) -> None:
  """Writes the number of each pair above its dot."""
  for (row, column), value in np.ndenumerate(shown):
    if np.isnan(value):  # heads of one layer do not compose
      continue
    is_dark = np.mean(image.to_rgba(value)[:3]) < 0.45
    ax.annotate(
      f"{value:.2f}",
      (column, row),
      textcoords="offset points",
      xytext=(0, 9),
      ha="center",
      va="center",
      fontsize=7,
      color="white" if is_dark else "black",
    )


def _p_values(results: xr.Dataset, name: str, step: int) -> np.ndarray:
  if name.endswith("composition"):
    return results[f"{name}_p"].sel(step=step).values
  null = results[f"{name}_null_samples"].values
  return circuits.p_values(results[name].sel(step=step).values, null)


def _composition_bar(
  figure: Figure, axes: np.ndarray, image: AxesImage, results: xr.Dataset
) -> None:
  null = float(results["k_composition_null"])
  label = f"composition (line: null {null:.3f}); dots: p < {LEVEL}, Holm"
  bar = figure.colorbar(image, ax=axes, location="bottom", label=label)
  bar.ax.axvline(null, color=style.VERMILION, linewidth=1.5)
