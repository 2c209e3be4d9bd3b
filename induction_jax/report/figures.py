"""The figures of a run that need its results alone.

Each takes the results and what was found in them, and returns a figure. The
grey band is the transition from onset to completion, the line in it its
midpoint; dotted grey lines are null values.
"""

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from induction_jax.report import style
from induction_jax.report.findings import Findings, Head, measured


def plot_transition(results: xr.Dataset, findings: Findings) -> Figure:
  """Accuracy and loss on both kinds of tokens; head scores with nulls."""
  figure, axes = plt.subplots(2, 2, figsize=(style.WIDTH, 4.6), sharex=True)
  for ax, quantity, unit in (
    (axes[0, 0], "accuracy", ""),
    (axes[0, 1], "loss", " (nats)"),
  ):
    _curve(ax, results[f"pattern_{quantity}"], "predictable tokens", style.BLUE)
    _curve(ax, results[f"random_{quantity}"], "other tokens", style.VERMILION)
    on_repeats = results[f"induction_{quantity}"]
    if not np.array_equal(
      on_repeats, results[f"pattern_{quantity}"], equal_nan=True
    ):
      _curve(ax, on_repeats, "predictable tokens of repeats", style.GREEN)
    _null(ax, results[f"pattern_{quantity}_null"], "uniform guess")
    ax.set_ylabel(quantity + unit)
    ax.legend()
  axes[0, 0].set_ylim(-0.02, 1.02)
  _plot_heads(axes[1, 0], results, "prefix_matching", findings.induction_head)
  axes[1, 0].set_ylabel("prefix matching")
  _plot_heads(
    axes[1, 1], results, "previous_token", findings.previous_token_head
  )
  axes[1, 1].set_ylabel("previous-token attention")
  _finish(axes, results, findings)
  return figure


def plot_spectrum(results: xr.Dataset, findings: Findings) -> Figure:
  """Both ends of the Hessian, and the preconditioned top against its edge."""
  preconditioned = "preconditioned_top_eigenvalues" in results
  rows = 3 if preconditioned else 2
  figure, axes = plt.subplots(
    rows, 1, figsize=(style.WIDTH, 1.9 * rows), sharex=True, squeeze=False
  )
  top, bottom = axes[0, 0], axes[1, 0]
  _plot_eigenvalues(top, results, "top", style.BLUE)
  norm = measured(results["spectral_norm"])
  top.plot(
    norm.step, norm, color=style.BLACK, linestyle=":", label="spectral norm"
  )
  top.set_ylabel("top eigenvalues (nats)")
  style.log_axis(top.yaxis)
  _plot_eigenvalues(bottom, results, "bottom", style.VERMILION)
  bottom.set_ylabel("bottom eigenvalues (nats)")
  bottom.set_yscale("symlog", linthresh=0.1)
  top.legend(loc="lower right", ncols=4)
  bottom.legend(loc="upper right", ncols=3)
  if preconditioned:
    ax = axes[2, 0]
    _plot_eigenvalues(ax, results, "preconditioned_top", style.GREEN)
    edge = measured(results["preconditioned_edge"])
    ax.plot(
      edge.step,
      edge,
      color=style.BLACK,
      linestyle="--",
      label="stability edge",
    )
    style.log_axis(ax.yaxis)
    ax.set_ylabel("preconditioned\ntop eigenvalues")
    ax.legend(loc="lower right", ncols=3)
  _finish(axes, results, findings)
  return figure


def plot_alignment(results: xr.Dataset, findings: Findings) -> Figure:
  """Where the gradient lies in the eigenspaces, and how these move."""
  figure, axes = plt.subplots(1, 2, figsize=(style.WIDTH, 2.6))
  for end, color in (("top", style.BLUE), ("bottom", style.VERMILION)):
    k = results.sizes["eig"]
    _curve(axes[0], results[f"{end}_alignment_total"], f"{end} {k}", color, ".")
    _curve(
      axes[0],
      results[f"{end}_alignment"][:, 0],
      f"{end} 1",
      color,
      ".",
      linestyle="--",
    )
    _curve(axes[1], results[f"{end}_overlap"], f"{end} {k}", color, ".")
  _null(axes[0], results["top_alignment_total_null"], "random direction, k")
  _null(axes[1], results["top_overlap_null"], "random subspaces")
  axes[0].set_ylabel("share of gradient norm²")
  axes[1].set_ylabel("overlap with the measurement before")
  for ax in axes:
    ax.set_yscale("log")
    ax.set_ylim(top=1.4)
    ax.legend()
  _finish(axes, results, findings)
  return figure


def plot_circuits(results: xr.Dataset, findings: Findings) -> Figure:
  """Heads through (QK, OV) space, composition before and after, spectra."""
  figure = plt.figure(figsize=(style.WIDTH, 5.2))
  grid = figure.add_gridspec(2, 6)
  _plot_trajectories(figure.add_subplot(grid[0, :2]), results, findings)
  before, after = _before_after(results, findings)
  composition = results["k_composition"]
  limits = (0.0, float(composition.max()))
  for place, step in ((grid[0, 2:4], before), (grid[0, 4:], after)):
    ax = figure.add_subplot(place)
    image = _plot_composition(ax, composition.sel(step=step), limits)
    ax.set_title(f"K-composition, step {step}")
  null = float(results["k_composition_null"])
  bar = figure.colorbar(image, ax=ax, label=f"null {null:.3f} (line)")
  bar.ax.axhline(null, color=style.VERMILION, linewidth=1.5)
  heads = (
    ("ov", findings.induction_head, "induction head"),
    ("qk", findings.induction_head, "induction head"),
    ("ov", findings.previous_token_head, "previous-token head"),
  )
  for i, (circuit, head, name) in enumerate(heads):
    ax = figure.add_subplot(grid[1, 2 * i : 2 * i + 2])
    _plot_complex_plane(ax, results, circuit, head, (before, after))
    ax.set_title(f"{circuit.upper()} of {name} {head.layer}.{head.head}")
  return figure


def _curve(
  ax: Axes,
  series: xr.DataArray,
  label: str,
  color: str,
  marker: str = "",
  linestyle: str = "-",
) -> None:
  series = measured(series)
  ax.plot(
    series.step,
    series,
    label=label,
    color=color,
    marker=marker,
    markersize=3,
    linestyle=linestyle,
  )


def _null(ax: Axes, value: xr.DataArray, label: str) -> None:
  ax.axhline(float(value), label=f"{label} (null)", **style.NULL_STYLE)


def _plot_heads(ax: Axes, results: xr.Dataset, name: str, best: Head) -> None:
  scores = measured(results[name])
  for layer in range(scores.sizes["layer"]):
    for head in range(scores.sizes["head"]):
      is_best = (layer, head) == (best.layer, best.head)
      ax.plot(
        scores.step,
        scores[:, layer, head],
        label=f"{layer}.{head}",
        linewidth=2.0 if is_best else 0.9,
        **style.head_line(layer, head),
      )
  _null(ax, results[f"{name}_null"], "uniform")
  ax.set_ylim(-0.02, 1.02)
  ax.legend(title="layer.head", ncols=max(1, scores.sizes["layer"]))


def _plot_eigenvalues(
  ax: Axes, results: xr.Dataset, name: str, color: str
) -> None:
  """Every tracked eigenvalue; its residual as a bar; hollow if unconverged."""
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
      label={0: "first", 1: "the others tracked"}.get(i),
    )
    missed = ~converged[:, i]
    ax.plot(
      values.step[missed],
      values[missed, i],
      "o",
      markersize=3.5,
      markerfacecolor="white",
      color=color,
      label="not converged" if i == 0 and bool(missed.any()) else None,
    )


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
      ax.plot(x, y, linewidth=0.8, alpha=0.7, **line)
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
    title="heads in time (dot: last; grey: null ± 2 sd)",
  )


def _before_after(results: xr.Dataset, findings: Findings) -> tuple[int, int]:
  """Steps of the circuits before the onset and at the end."""
  steps = measured(results["ov_copying"]).step.values
  onset = findings.transition.onset
  if onset is None:
    return int(steps[0]), int(steps[-1])
  first = np.searchsorted(steps, onset.estimate, side="right") - 1
  return int(steps[max(first, 0)]), int(steps[-1])


def _plot_composition(
  ax: Axes, pairs: xr.DataArray, limits: tuple[float, float]
):
  """Readers down, writers across; pairs in one layer have no composition."""
  n_layers, n_heads = pairs.shape[:2]
  matrix = pairs.values.reshape(n_layers * n_heads, -1)
  if n_layers > 1:
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
  ax.legend()


def _finish(axes: np.ndarray, results: xr.Dataset, findings: Findings) -> None:
  for ax in np.ravel(axes):
    style.step_axis(ax, results.step.values, findings)
  if axes.ndim == 2:
    for ax in axes[:-1].ravel():
      ax.set_xlabel("")
