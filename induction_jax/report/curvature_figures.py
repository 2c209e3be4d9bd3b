"""Figures of the whole spectrum and of curvature by circuit."""

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from induction_jax.report import style
from induction_jax.report.findings import Findings, measured

LEAST_DENSITY = 1e-5  # shown; a probe's smallest weights are noise


def plot_density(results: xr.Dataset, findings: Findings) -> Figure:
  """The spectral density through training, and its extent."""
  density = measured(results["density"])
  figure, axes = plt.subplots(1, 2, figsize=(style.WIDTH, 3.0))
  _plot_heat(axes[0], density, findings)
  _plot_ridges(axes[1], results, findings)
  return figure


def plot_blocks(results: xr.Dataset, findings: Findings) -> Figure:
  """Norms of all blocks before, at and after the transition."""
  norms = measured(results["block_norm"])
  steps = style.three_steps(norms, findings)
  figure, axes = plt.subplots(
    1, len(steps), figsize=(style.WIDTH, 3.0), sharey=True, squeeze=False
  )
  shown = norms.sel(step=steps)
  most = float(shown.max())
  most = most if most > 0 else 1.0  # a flat loss: nothing to show, and shown
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
  """Where the extreme eigenvectors live, through training."""
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
  """The density before, at and after the transition, bars over probes."""
  density = measured(results["density"])
  steps = style.three_steps(density, findings)
  places = np.arange(density.sizes["eigenvalue"])
  for step, color in zip(steps, (style.ORANGE, style.GREEN, style.BLUE)):
    value = density.sel(step=step)
    error = results["density_se"].sel(step=step)
    ax.plot(places, value, color=color, label=f"step {step}")
    ax.fill_between(
      places,
      np.maximum(value - error, LEAST_DENSITY),
      value + error,
      color=color,
      alpha=0.25,
      linewidth=0,
    )
  ax.set_yscale("log")
  ax.set_ylim(LEAST_DENSITY, 3 * float(density.sel(step=steps).max()))
  _eigenvalue_ticks(ax.xaxis, density)
  ax.set_xlim(*_extent(density))
  ax.set(xlabel="eigenvalue (nats)", ylabel="share of eigenvalues per decade")
  style.legend_above(ax, ncols=3)


def _eigenvalue_ticks(axis: Axis, density: xr.DataArray) -> None:
  """Powers of ten on an axis that counts the places of the density's grid."""
  values = density.eigenvalue.values
  powers = np.array([-1e3, -1e2, -10, -1, 0, 1, 10, 1e2, 1e3])
  shown = powers[(powers >= values[0]) & (powers <= values[-1])]
  places = np.interp(shown, values, np.arange(len(values)))
  axis.set_ticks(places, [f"{value:g}" for value in shown], fontsize=6.5)


def _extent(density: xr.DataArray) -> tuple[float, float]:
  """The places between which there is anything, and a margin."""
  inside = np.flatnonzero((density > LEAST_DENSITY).any("step"))
  return inside[0] - 5, inside[-1] + 5


def _edges(steps: np.ndarray) -> np.ndarray:
  """Borders of cells around measured steps."""
  if len(steps) == 1:
    return np.array([steps[0] - 0.5, steps[0] + 0.5])
  middle = (steps[1:] + steps[:-1]) / 2
  first = steps[0] - (middle[0] - steps[0])
  last = steps[-1] + (steps[-1] - middle[-1])
  return np.concatenate([[first], middle, [last]])


def _mark(ax: Axes, findings: Findings) -> None:
  """Lines at onset and completion: a band would hide a heat map."""
  transition = findings.transition
  for point in (transition.onset, transition.completion):
    if point is not None:
      ax.axvline(point.estimate, color="white", linewidth=1.6)
      ax.axvline(point.estimate, color="black", linewidth=0.7, linestyle="--")
  ax.set_xlabel("training step")
