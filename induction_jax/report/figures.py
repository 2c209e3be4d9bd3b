"""The figures of a run that need its results alone.

Each takes the results and what was found in them, and returns a figure. The
grey band is the transition from onset to completion, the line in it its
midpoint; dotted grey lines are null values.
"""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from induction_jax.report import style
from induction_jax.report.findings import Findings, Head, measured


def plot_transition(results: xr.Dataset, findings: Findings) -> Figure:
  """Accuracy and loss on both kinds of tokens; head scores with nulls."""
  zoom = style.find_zoom(results, "behaviour")
  if zoom is None:
    figure, axes = plt.subplots(2, 2, figsize=(style.WIDTH, 4.6), sharex=True)
    _draw_transition(axes.ravel(), results, findings)
    _finish(axes, results, findings)
    return figure
  figure, axes = _zoomed_rows(4, 1.75)
  for column in axes.T:
    _draw_transition(column, results, findings)
  _finish_zoomed(axes, results, findings, zoom)
  return figure


def _draw_transition(
  axes: np.ndarray, results: xr.Dataset, findings: Findings
) -> None:
  for ax, quantity, unit in (
    (axes[0], "accuracy", ""),
    (axes[1], "loss", " (nats)"),
  ):
    _curve(ax, results[f"pattern_{quantity}"], "predictable", style.BLUE)
    _curve(ax, results[f"random_{quantity}"], "other tokens", style.VERMILION)
    on_repeats = results[f"induction_{quantity}"]
    if not np.array_equal(
      on_repeats, results[f"pattern_{quantity}"], equal_nan=True
    ):
      _curve(ax, on_repeats, "predictable, repeats", style.GREEN)
    _null(ax, results[f"pattern_{quantity}_null"], "uniform")
    ax.set_ylabel(quantity + unit)
    style.legend_above(ax, ncols=3)
  axes[0].set_ylim(-0.02, 1.02)
  for ax, name, label, head in (
    (axes[2], "prefix_matching", "prefix matching", findings.induction_head),
    (
      axes[3],
      "previous_token",
      "previous-token attention",
      findings.previous_token_head,
    ),
  ):
    _plot_heads(ax, results, name, head)
    ax.set_ylabel(label)


def plot_spectrum(results: xr.Dataset, findings: Findings) -> Figure:
  """Both ends of the Hessian, and the preconditioned top against its edge."""
  zoom = style.find_zoom(results, "spectra")
  rows = 3 if "preconditioned_top_eigenvalues" in results else 2
  if zoom is None:
    figure, axes = plt.subplots(
      rows, 1, figsize=(style.WIDTH, 1.9 * rows), sharex=True, squeeze=False
    )
    _draw_spectrum(axes[:, 0], results)
    _finish(axes, results, findings)
    return figure
  figure, axes = _zoomed_rows(rows, 1.9)
  for column in axes.T:
    _draw_spectrum(column, results)
  _finish_zoomed(axes, results, findings, zoom)
  return figure


def _draw_spectrum(axes: np.ndarray, results: xr.Dataset) -> None:
  """The panels; the third, of the preconditioned Hessian, may be absent."""
  top, bottom, *preconditioned = axes
  _plot_eigenvalues(top, results, "top", style.BLUE)
  norm = measured(results["spectral_norm"])
  top.plot(
    norm.step, norm, color=style.BLACK, linestyle=":", label="spectral norm"
  )
  top.set_ylabel("top eigenvalues (nats)")
  style.log_axis(top.yaxis)
  style.legend_above(top, ncols=4)
  _plot_eigenvalues(bottom, results, "bottom", style.VERMILION)
  bottom.set_ylabel("bottom eigenvalues (nats)")
  bottom.set_yscale("symlog", linthresh=0.1)
  style.legend_above(bottom, ncols=3)
  for ax in preconditioned:
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
    ax.set_ylabel("preconditioned top\neigenvalues (1)")
    style.legend_above(ax, ncols=4)


def plot_alignment(results: xr.Dataset, findings: Findings) -> Figure:
  """Where the gradient lies in the eigenspaces, and how these move."""
  figure, axes = plt.subplots(1, 2, figsize=(style.WIDTH, 2.8))
  k = results.sizes["eig"]
  for end, color in (("top", style.BLUE), ("bottom", style.VERMILION)):
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
  _null(axes[0], results["top_alignment_total_null"], f"{k} random:")
  _null(axes[0], results["top_alignment_null"], "1 random:", linestyle="-.")
  _null(axes[1], results["top_overlap_null"], "random:")
  axes[0].set_ylabel("share of gradient norm²")
  axes[1].set_ylabel("overlap with the measurement before")
  for ax in axes:
    ax.set_yscale("log")
    ax.set_ylim(top=1.4)
    style.legend_above(ax, ncols=3)
  _finish(axes, results, findings)
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


def _null(ax: Axes, value: xr.DataArray, label: str, **line: Any) -> None:
  ax.axhline(
    float(value.max()), label=f"{label} null".strip(), **style.NULL_STYLE | line
  )


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
  _null(ax, results[f"{name}_null"], "")
  ax.set_ylim(-0.02, 1.02)
  style.legend_above(ax, ncols=5)


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


def _finish(axes: np.ndarray, results: xr.Dataset, findings: Findings) -> None:
  for ax in np.ravel(axes):
    style.step_axis(ax, results.step.values, findings)
  if axes.ndim == 2:
    for ax in axes[:-1].ravel():
      ax.set_xlabel("")


def _zoomed_rows(rows: int, height: float) -> tuple[Figure, np.ndarray]:
  """Panels one below the other, [rows, 2]: the run, and its zoom beside it."""
  return plt.subplots(
    rows,
    2,
    figsize=(style.WIDTH, height * rows),
    sharex="col",
    sharey="row",
    width_ratios=(3, 2),
  )


def _finish_zoomed(
  axes: np.ndarray, results: xr.Dataset, findings: Findings, zoom: style.Zoom
) -> None:
  _finish(axes, results, findings)
  for run, closer in axes:
    style.mark_zoom(run, closer, zoom)
  axes[0, 1].set_title(style.describe_zoom(zoom))
