"""Figures of curvature: both ends of the spectrum, the density, and blocks."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from induction_jax.report import style
from induction_jax.report.findings import Findings, measured

LEAST_DENSITY = 1e-5  # smaller weights of a random vector are noise


def plot_spectrum(results: xr.Dataset, findings: Findings) -> Figure:
  """Both ends of the spectrum, and the preconditioned top with its edge."""
  rows = 3 if "preconditioned_top_eigenvalues" in results else 2

  def draw(axes: np.ndarray) -> None:
    _plot_ends(axes[0], axes[1], results)
    for ax in axes[2:]:
      _plot_preconditioned(ax, results)

  if zoom := style.find_zoom(results, "spectra"):
    return style.plot_zoomed(draw, rows, 1.9, results, findings, zoom)
  figure, axes = plt.subplots(
    rows, 1, figsize=(style.WIDTH, 1.9 * rows), sharex=True, squeeze=False
  )
  draw(axes[:, 0])
  style.finish_rows(axes, results, findings)
  return figure


def plot_alignment(results: xr.Dataset, findings: Findings) -> Figure:
  """Shares of the gradient in the eigenspaces, and overlaps between steps."""
  figure, axes = plt.subplots(1, 2, figsize=(style.WIDTH, 2.8))
  k = results.sizes["eig"]
  for end, color in (("top", style.BLUE), ("bottom", style.VERMILION)):
    for ax, name, label, line in (
      (axes[0], f"{end}_alignment_total", f"{end} {k}", "-"),
      (axes[0], f"{end}_alignment", f"{end} 1", "--"),
      (axes[1], f"{end}_overlap", f"{end} {k}", "-"),
    ):
      series = results[name]
      series = series if series.ndim == 1 else series[:, 0]
      style.plot_curve(
        ax, series, label, color, marker=".", markersize=3, linestyle=line
      )
  total, single = (
    results["top_alignment_total_null"],
    results["top_alignment_null"],
  )
  style.plot_null(axes[0], total, f"null for {k}")
  style.plot_null(axes[0], single, "null for 1", linestyle="-.")
  style.plot_null(axes[1], results["top_overlap_null"], "null")
  axes[0].set_ylabel("share of gradient norm²")
  axes[1].set_ylabel("overlap with the previous measurement")
  for ax in axes:
    ax.set_yscale("log")
    ax.set_ylim(top=1.4)
    style.legend_above(ax, ncols=3)
  style.finish_rows(axes, results, findings)
  return figure


def plot_density(results: xr.Dataset, findings: Findings) -> Figure:
  """The spectral density through training, and at three steps."""
  density = measured(results["density"])
  figure, axes = plt.subplots(1, 2, figsize=(style.WIDTH, 3.0))
  _plot_heat(axes[0], density, findings)
  _plot_ridges(axes[1], results, findings)
  return figure


def plot_blocks(results: xr.Dataset, findings: Findings) -> Figure:
  """Frobenius norms of all blocks before, at and after the transition."""
  norms = measured(results["block_norm"])
  steps = style.three_steps(norms, findings)
  figure, axes = plt.subplots(
    1, len(steps), figsize=(style.WIDTH, 3.0), sharey=True, squeeze=False
  )
  shown = norms.sel(step=steps)
  most = float(shown.max())
  most = most if most > 0 else 1.0  # all norms are 0 where the loss is flat
  least = most / 1e3
  names = [str(name) for name in norms.block.values]
  for ax, step in zip(axes[0], steps):
    image = ax.imshow(
      np.maximum(shown.sel(step=step), least),
      norm=LogNorm(least, most),
      cmap="viridis",
    )
    ax.set_xticks(range(len(names)), names, rotation=90, fontsize=5)
    ax.set_yticks(range(len(names)), names, fontsize=5)
    ax.set_title(f"step {step}")
  figure.colorbar(image, ax=axes, label="‖H_ab‖ Frobenius (nats)", shrink=0.8)
  return figure


def plot_block_mass(results: xr.Dataset, findings: Findings) -> Figure:
  """Mass of the extreme eigenvectors in each block, through training."""
  ends = ("top", "bottom")
  figure, axes = plt.subplots(
    1, len(ends), figsize=(style.WIDTH, 3.2), sharey=True
  )
  names = [str(name) for name in results.block.values]
  for ax, end in zip(axes, ends):
    mass = measured(results[f"{end}_block_mass"])
    edges = _edges(mass.step.values)
    image = ax.pcolormesh(
      edges,
      np.arange(len(names) + 1) - 0.5,
      mass[:, 0].T,
      vmin=0,
      vmax=1,
      cmap="magma_r",
    )
    ax.set_yticks(range(len(names)), names, fontsize=5)
    ax.set_title(f"{end} eigenvector")
    _mark(ax, findings)
  axes[0].invert_yaxis()
  figure.colorbar(image, ax=axes, label="share of squared norm", shrink=0.8)
  return figure


def _plot_ends(top: Axes, bottom: Axes, results: xr.Dataset) -> None:
  _plot_eigenvalues(top, results, "top", style.BLUE)
  norm = results["spectral_norm"]
  style.plot_curve(top, norm, "spectral norm", style.BLACK, linestyle=":")
  top.set_ylabel("top eigenvalues (nats)")
  style.log_axis(top.yaxis)
  style.legend_above(top, ncols=4)
  _plot_eigenvalues(bottom, results, "bottom", style.VERMILION)
  bottom.set_ylabel("bottom eigenvalues (nats)")
  bottom.set_yscale("symlog", linthresh=0.1)
  style.legend_above(bottom, ncols=3)


def _plot_preconditioned(ax: Axes, results: xr.Dataset) -> None:
  _plot_eigenvalues(ax, results, "preconditioned_top", style.GREEN)
  edge = results["preconditioned_edge"]
  style.plot_curve(ax, edge, "stability edge", style.BLACK, linestyle="--")
  style.log_axis(ax.yaxis)
  ax.set_ylabel("preconditioned top\neigenvalues (1)")
  style.legend_above(ax, ncols=4)


def _plot_eigenvalues(
  ax: Axes, results: xr.Dataset, name: str, color: str
) -> None:
  """Every tracked eigenvalue, with its residual bound as an error bar.

  Hollow markers are eigenvalues that have not converged.
  """
  values = measured(results[f"{name}_eigenvalues"])
  residuals = results[f"{name}_residuals"].sel(step=values.step)
  converged = results[f"{name}_converged"].sel(step=values.step) > 0
  for i in range(values.shape[1]):
    ax.errorbar(
      values.step,
      values[:, i],
      yerr=residuals[:, i],
      color=color,
      alpha=1.0 if i == 0 else 0.35,
      marker=".",
      markersize=3,
      linewidth=1.2 if i == 0 else 0.7,
      elinewidth=0.8,
      label={0: "first", 1: "other tracked"}.get(i),
    )
  hollow: dict[str, Any] = {
    "marker": "o",
    "linestyle": "",
    "markersize": 3.5,
    "markerfacecolor": "white",
    "color": color,
  }
  for i in range(values.shape[1]):
    missed = ~converged[:, i]
    ax.plot(values.step[missed], values[missed, i], **hollow)
  if not bool(converged.all()):
    ax.plot([], [], label="not converged", **hollow)


def _plot_heat(ax: Axes, density: xr.DataArray, findings: Findings) -> None:
  places = np.arange(density.sizes["eigenvalue"])
  image = ax.pcolormesh(
    _edges(density.step.values),
    np.append(places, places[-1] + 1) - 0.5,
    np.maximum(density.T, LEAST_DENSITY),
    norm=LogNorm(LEAST_DENSITY, float(density.max())),
    cmap="viridis",
  )
  _eigenvalue_ticks(ax.yaxis, density)
  ax.set_ylim(*_extent(density))
  ax.set_ylabel("eigenvalue (nats)")
  ax.figure.colorbar(image, ax=ax, label="share of eigenvalues per decade")
  _mark(ax, findings)


def _plot_ridges(ax: Axes, results: xr.Dataset, findings: Findings) -> None:
  """The density at three steps, with standard errors over random vectors."""
  density = measured(results["density"])
  steps = style.three_steps(density, findings)
  places = np.arange(density.sizes["eigenvalue"])
  for step, color in zip(steps, style.STEP_COLORS):
    value = density.sel(step=step)
    error = results["density_se"].sel(step=step)
    ax.plot(places, value, color=color, label=f"step {step}")
    low = np.maximum(value - error, LEAST_DENSITY)
    style.plot_band(ax, places, low, value + error, color)
  ax.set_yscale("log")
  ax.set_ylim(LEAST_DENSITY, 3 * float(density.sel(step=steps).max()))
  _eigenvalue_ticks(ax.xaxis, density)
  ax.set_xlim(*_extent(density))
  ax.set(xlabel="eigenvalue (nats)", ylabel="share of eigenvalues per decade")
  style.legend_above(ax, ncols=3)


def _eigenvalue_ticks(axis: Axis, density: xr.DataArray) -> None:
  """Labels an axis of grid indices with the eigenvalues at powers of ten."""
  values = density.eigenvalue.values
  powers = np.array([-1e3, -1e2, -10, -1, 0, 1, 10, 1e2, 1e3])
  shown = powers[(powers >= values[0]) & (powers <= values[-1])]
  places = np.interp(shown, values, np.arange(len(values)))
  axis.set_ticks(places, [f"{value:g}" for value in shown], fontsize=6.5)


def _extent(density: xr.DataArray) -> tuple[float, float]:
  """Limits of the grid indices with a visible density, and a margin."""
  inside = np.flatnonzero((density > LEAST_DENSITY).any("step"))
  return inside[0] - 5, inside[-1] + 5


def _edges(steps: np.ndarray) -> np.ndarray:
  """Edges of the heat map's cells, half-way between measured steps."""
  if len(steps) == 1:
    return np.array([steps[0] - 0.5, steps[0] + 0.5])
  middle = (steps[1:] + steps[:-1]) / 2
  first = steps[0] - (middle[0] - steps[0])
  last = steps[-1] + (steps[-1] - middle[-1])
  return np.concatenate([[first], middle, [last]])


def _mark(ax: Axes, findings: Findings) -> None:
  """Lines at onset and completion, since a band would hide a heat map."""
  for step in style.transition_ends(findings):
    ax.axvline(step, color="white", linewidth=1.6)
    ax.axvline(step, color="black", linewidth=0.7, linestyle="--")
  ax.set_xlabel("training step")
