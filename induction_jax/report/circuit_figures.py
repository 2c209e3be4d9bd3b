"""Figures of the circuits: heads in time, eigenvalue paths."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from induction_jax import circuits
from induction_jax.report import style
from induction_jax.report.findings import Findings, Head, measured

# Eigenvalues are drawn linearly up to here, logarithmically beyond.
LINEAR_WIDTH = 0.5


def plot_circuits(results: xr.Dataset, findings: Findings) -> Figure:
  """Heads through (QK matching, OV copying), and how many tokens they copy.

  Grey is what random circuits score, to two standard deviations; a dot is the
  last measurement, and the two best heads are thick and have their numbers.
  """
  figure, axes = plt.subplots(1, 2, figsize=(style.WIDTH, 3.3))
  copying, copied = results["ov_copying"], results["ov_copied_fraction"]
  _plot_heads(axes[0], results["qk_matching"], copying, findings)
  _plot_heads(axes[1], copied.step, copied, findings)
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
  axes[1].axhline(null, label=f"null {null:.3g}", **style.NULL_STYLE)
  axes[1].set(ylim=(-0.1, 1.1), ylabel="share of tokens that OV copies (top k)")
  style.step_axis(axes[1], results.step.values, findings)
  for ax in axes:
    style.legend_above(ax, ncols=4)
  return figure


def plot_eigenvalues(results: xr.Dataset, findings: Findings) -> Figure:
  """Eigenvalues of the two heads' circuits as paths in the complex plane."""
  figure, axes = plt.subplots(2, 2, figsize=(style.WIDTH, 5.2))
  heads = (
    (findings.induction_head, findings.induction_head_name),
    (findings.previous_token_head, "best previous-token head"),
  )
  for row, (head, name) in zip(axes, heads):
    for ax, circuit in zip(row, ("ov", "qk")):
      lines = _plot_eigenvalue_paths(ax, results, circuit, head)
      ax.set_title(f"{circuit.upper()}, {name} {head.layer}.{head.head}")
  bar = figure.colorbar(lines, ax=axes, label="training step", shrink=0.8)
  transition = findings.transition
  for point in (transition.onset, transition.completion):
    if point is not None:
      bar.ax.axhline(point.estimate, color="white", linewidth=1.5)
  return figure


def _plot_heads(
  ax: Axes, across: xr.DataArray, up: xr.DataArray, findings: Findings
) -> None:
  """A line for each head, of two variables that were measured together."""
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
      ends[f"{layer}.{head}"] = float(x[-1]), float(y[-1])
  _name_ends(ax, ends)


def _name_ends(ax: Axes, ends: dict[str, tuple[float, float]]) -> None:
  """Names of at most two heads where their lines end.

  The higher one has its name above, the lower one below: these never meet.
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
  """Paths coloured by step; a dot where each ends."""
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
  # One eigenvalue may be a hundred times the others.
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
  """Round numbers between two, the roundest first, none too near another."""
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
