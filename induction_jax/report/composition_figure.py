"""Figure of the compositions: who reads whom, pair by pair."""

from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from induction_jax import circuits
from induction_jax.report import style
from induction_jax.report.findings import Findings, measured
from induction_jax.transition.lead_lag import holm

LEVEL = 0.05  # of significance, for all pairs of a matrix together
# Readers for which a matrix has room to say its numbers.
FEW = 2


class Pairs(NamedTuple):
  """A measure of pairs of heads, and how it is drawn."""

  name: str
  title: str
  limits: tuple[float, float]
  colors: str


def plot_compositions(results: xr.Dataset, findings: Findings) -> Figure:
  """Who reads whom before, at and after the transition.

  A dot marks what random circuits reach in fewer than LEVEL of the cases, all
  pairs of its matrix together (Holm). For a composition they have the spectra
  of the two heads, for K-composed matching they are Gaussian. A few pairs, of
  which colours alone say little, have their numbers.
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


def _plot_pairs(
  ax: Axes, results: xr.Dataset, pairs: Pairs, step: int
) -> AxesImage:
  """Readers down, writers across; the first layer reads from none."""
  found = results[pairs.name].sel(step=step).values
  n_layers, n_heads = found.shape[:2]
  names = [f"{i}.{j}" for i in range(n_layers) for j in range(n_heads)]

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
  if shown(found).shape[0] <= FEW:
    _write_numbers(ax, image, shown(found))
  readable = 7 if len(names) <= 16 else 4
  writing, reading = names[:-n_heads], names[n_heads:]
  ax.set_xticks(range(len(writing)), writing, rotation=90, fontsize=readable)
  ax.set_yticks(range(len(reading)), reading, fontsize=readable)
  return image


def _write_numbers(ax: Axes, image: AxesImage, shown: np.ndarray) -> None:
  """The number of each pair, above its dot."""
  for (row, column), value in np.ndenumerate(shown):
    if np.isnan(value):  # a layer does not read itself
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
