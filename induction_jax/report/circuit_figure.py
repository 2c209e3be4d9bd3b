"""The figure of the circuits: heads in time, composition, eigenvalues."""

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from induction_jax.report import style
from induction_jax.report.findings import Findings, Head, measured


def plot_circuits(results: xr.Dataset, findings: Findings) -> Figure:
  """Heads through (QK, OV) space, composition before and after, spectra."""
  figure = plt.figure(figsize=(style.WIDTH, 5.2))
  grid = figure.add_gridspec(2, 6)
  _plot_trajectories(figure.add_subplot(grid[0, :2]), results, findings)
  before, after = _before_after(results, findings)
  if results.sizes["layer"] > 1:
    axes = [figure.add_subplot(grid[0, i : i + 2]) for i in (2, 4)]
    _plot_compositions(axes, results, (before, after))
  else:
    figure.text(0.68, 0.75, "one layer: no composition", ha="center")
  name = findings.induction_head_name
  heads = (
    ("ov", findings.induction_head, name),
    ("qk", findings.induction_head, name),
    ("ov", findings.previous_token_head, "best previous-token head"),
  )
  for i, (circuit, head, name) in enumerate(heads):
    ax = figure.add_subplot(grid[1, 2 * i : 2 * i + 2])
    _plot_complex_plane(ax, results, circuit, head, (before, after))
    title = f"{circuit.upper()}, {name} {head.layer}.{head.head}"
    ax.set_title(title, fontsize=7, pad=15)  # above the legend
  return figure


def _plot_trajectories(
  ax: Axes, results: xr.Dataset, findings: Findings
) -> None:
  ov, qk = measured(results["ov_copying"]), measured(results["qk_matching"])
  spread = (
    float(results["qk_matching_null_sd"]),
    float(results["ov_copying_null_sd"]),
  )
  ax.axvspan(-2 * spread[0], 2 * spread[0], color="0.93", linewidth=0)
  ax.axhspan(-2 * spread[1], 2 * spread[1], color="0.93", linewidth=0)
  for layer in range(ov.sizes["layer"]):
    for head in range(ov.sizes["head"]):
      line = style.head_line(layer, head)
      x, y = qk[:, layer, head], ov[:, layer, head]
      ax.plot(x, y, linewidth=0.8, **line)
      ax.plot(x[-1], y[-1], "o", markersize=4, color=line["color"])
      best = findings.induction_head, findings.previous_token_head
      if (layer, head) in {(h.layer, h.head) for h in best}:
        ax.annotate(
          f"{layer}.{head}",
          (float(x[-1]), float(y[-1])),
          textcoords="offset points",
          xytext=(4, 3),
          fontsize=7,
        )
  ax.set(
    xlim=(-1.05, 1.05),
    ylim=(-1.05, 1.05),
    xlabel="QK matching score",
    ylabel="OV copying score",
  )
  ax.set_title("heads in time (dot: last; grey: null ± 2 sd)", pad=15)
  handles = [
    ax.plot([], [], color=style.head_line(i, 0)["color"], label=f"layer {i}")[0]
    for i in range(ov.sizes["layer"])
  ]
  style.legend_above(ax, ncols=len(handles), handles=handles)


def _before_after(results: xr.Dataset, findings: Findings) -> tuple[int, int]:
  """Steps of the circuits before the onset and at the end."""
  steps = measured(results["ov_copying"]).step.values
  onset = findings.transition.onset
  if onset is None:
    return int(steps[0]), int(steps[-1])
  first = np.searchsorted(steps, onset.estimate, side="right") - 1
  return int(steps[max(first, 0)]), int(steps[-1])


def _plot_compositions(
  axes: list[Axes], results: xr.Dataset, steps: tuple[int, int]
) -> None:
  """K-composition at two steps on one scale, the null marked on it."""
  composition = results["k_composition"]
  limits = (0.0, float(composition.max()))
  for ax, step in zip(axes, steps):
    image = _plot_composition(ax, composition.sel(step=step), limits)
    ax.set_title(f"K-composition, step {step}")
  null = float(results["k_composition_null"])
  bar = axes[0].figure.colorbar(
    image, ax=axes[-1], label=f"K-composition (line: null {null:.3f})"
  )
  bar.ax.axhline(null, color=style.VERMILION, linewidth=1.5)


def _plot_composition(
  ax: Axes, pairs: xr.DataArray, limits: tuple[float, float]
) -> AxesImage:
  """Readers down, writers across; the first layer reads from none."""
  n_layers, n_heads = pairs.shape[:2]
  matrix = pairs.values.reshape(n_layers * n_heads, -1)
  matrix = matrix[n_heads:, :-n_heads]
  names = [f"{i}.{j}" for i in range(n_layers) for j in range(n_heads)]
  image = ax.imshow(matrix, vmin=limits[0], vmax=limits[1], cmap="viridis")
  ax.set_xticks(range(matrix.shape[1]), names[: matrix.shape[1]])
  ax.set_yticks(range(matrix.shape[0]), names[-matrix.shape[0] :])
  ax.tick_params(axis="x", rotation=90)
  ax.set(xlabel="writing head", ylabel="reading head")
  return image


def _plot_complex_plane(
  ax: Axes,
  results: xr.Dataset,
  circuit: str,
  head: Head,
  steps: tuple[int, int],
) -> None:
  for step, color, marker in zip(
    steps, (style.ORANGE, style.BLUE), ("x", "o"), strict=True
  ):
    real, imag = (
      results[f"{circuit}_eigenvalues_{part}"].sel(step=step)[
        head.layer, head.head
      ]
      for part in ("real", "imag")
    )
    ax.plot(
      real,
      imag,
      marker,
      markersize=4,
      color=color,
      markerfacecolor="none",
      label=f"step {step}",
    )
  ax.axhline(0, color="0.8", linewidth=0.6, zorder=0)
  ax.axvline(0, color="0.8", linewidth=0.6, zorder=0)
  ax.set(xlabel="Re λ", ylabel="Im λ")
  style.legend_above(ax, ncols=2)
