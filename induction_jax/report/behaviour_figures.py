"""Figures of behaviour: the transition, the context, and attention patterns."""

import jax
import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from induction_jax.circuits import prefix_mask
from induction_jax.model import Model
from induction_jax.report import style
from induction_jax.report.findings import Findings, measured
from induction_jax.types import Array, Batch, Params

LONGEST = 64  # positions of a sequence that are shown


def plot_transition(results: xr.Dataset, findings: Findings) -> Figure:
  """Accuracy and loss on both kinds of tokens; head scores with nulls."""

  def draw(axes: np.ndarray) -> None:
    _plot_accuracy_and_loss(axes[:2], results)
    for ax, name, label, best in (
      (axes[2], "prefix_matching", "prefix matching", findings.induction_head),
      (
        axes[3],
        "previous_token",
        "previous-token attention",
        findings.previous_token_head,
      ),
    ):
      style.plot_heads(ax, results[name], best)
      style.plot_null(ax, results[f"{name}_null"])
      ax.set_ylim(-0.02, 1.02)
      ax.set_ylabel(label)
      style.legend_above(ax, ncols=5)

  if zoom := style.find_zoom(results, "behaviour"):
    return style.plot_zoomed(draw, 4, 1.75, results, findings, zoom)
  figure, axes = plt.subplots(2, 2, figsize=(style.WIDTH, 4.6), sharex=True)
  draw(axes.ravel())
  style.finish_rows(axes, results, findings)
  return figure


def plot_context(results: xr.Dataset, findings: Findings) -> Figure:
  """Loss by occurrence, loss by position, and the in-context score."""
  figure, axes = plt.subplots(1, 3, figsize=(style.WIDTH, 2.8))
  _plot_occurrences(axes[0], results)
  _plot_positions(axes[1], results, findings)
  style.plot_curve(axes[2], results["in_context_score"], "score", style.BLUE)
  style.plot_null(axes[2], results["in_context_score_null"])
  axes[2].set_ylabel("in-context score (nats)")
  style.legend_above(axes[2], ncols=2)
  for ax in (axes[0], axes[2]):
    style.step_axis(ax, results.step.values, findings)
  return figure


def run_sequence(model: Model, params: Params, batch: Batch) -> xr.Dataset:
  """Attention patterns on the first sequence of a batch, for `plot_patterns`.

  The network sees every sequence of the batch, because a head that is clamped
  to its mean over sequences depends on all of them.

  Returns:
    A Dataset with `attention` [layer, head, query, key] and `prefix_target`
    [query, key], which is true at the keys whose attention counts as prefix
    matching.
  """

  @jax.jit
  def patterns(params: Params) -> Array:
    return model.apply(params, batch.tokens)[1].pattern[:, 0]

  targets = np.asarray(prefix_mask(batch.tokens[:1]))[0]
  targets = targets & np.asarray(batch.predictable)[0][:, None]
  return xr.Dataset(
    {
      "attention": (("layer", "head", "query", "key"), patterns(params)),
      "prefix_target": (("query", "key"), targets),
    }
  )


def plot_patterns(results: xr.Dataset, findings: Findings) -> Figure:
  """Patterns of the best previous-token and the best prefix-matching head.

  Boxes mark the keys after earlier occurrences of a predictable query's token.
  """
  shown = min(LONGEST, results.sizes["query"])
  results = results.isel(query=slice(shown), key=slice(shown))
  previous = findings.previous_token_head
  figure, axes = plt.subplots(1, 2, figsize=(style.WIDTH, 3.6))
  for ax, head, title in (
    (axes[0], previous, f"best previous-token head {previous.name}"),
    (axes[1], findings.induction_head, findings.induction_head_label),
  ):
    image = ax.imshow(
      results["attention"][head.layer, head.head],
      vmin=0,
      vmax=1,
      cmap="magma_r",
    )
    ax.set(title=title, xlabel="key position", ylabel="query position")
  queries, keys = np.nonzero(results["prefix_target"].values)
  axes[1].plot(
    keys,
    queries,
    "s",
    markersize=3.2,
    markerfacecolor="none",
    markeredgewidth=0.5,
    color=style.BLUE,
    label="tokens after earlier occurrences",
  )
  axes[1].legend(loc="upper right")
  figure.colorbar(image, ax=axes, label="attention", shrink=0.8)
  return figure


def _plot_accuracy_and_loss(axes: np.ndarray, results: xr.Dataset) -> None:
  for ax, quantity, unit in zip(axes, ("accuracy", "loss"), ("", " (nats)")):
    pattern = results[f"pattern_{quantity}"]
    style.plot_curve(ax, pattern, "predictable", style.BLUE)
    style.plot_curve(
      ax, results[f"random_{quantity}"], "other tokens", style.VERMILION
    )
    on_repeats = results[f"induction_{quantity}"]
    if not np.array_equal(on_repeats, pattern, equal_nan=True):
      style.plot_curve(ax, on_repeats, "predictable, repeats", style.GREEN)
    style.plot_null(ax, results[f"pattern_{quantity}_null"], "uniform null")
    ax.set_ylabel(quantity + unit)
    style.legend_above(ax, ncols=3)
  axes[0].set_ylim(-0.02, 1.02)


def _plot_occurrences(ax: Axes, results: xr.Dataset) -> None:
  losses = measured(results["loss_by_occurrence"])
  numbers = losses.occurrence.values
  shown = [n for n in numbers if losses.sel(occurrence=n).notnull().any()]
  colors = plt.get_cmap("viridis_r")
  for i, number in enumerate(shown):
    pooled = "+" if number == numbers[-1] else ""
    ax.plot(
      losses.step,
      losses.sel(occurrence=number),
      color=colors(0.1 + 0.9 * i / max(len(shown) - 1, 1)),
      linewidth=1.0,
      label=f"{number}{pooled}",
    )
  style.plot_null(ax, results["loss_by_occurrence_null"], "uniform")
  ax.set_ylim(bottom=0)
  ax.set_ylabel("loss by occurrence (nats)")
  style.legend_above(ax, ncols=3)


def _plot_positions(ax: Axes, results: xr.Dataset, findings: Findings) -> None:
  losses = measured(results["loss_by_position"])
  steps = style.three_steps(losses, findings)
  window = max(losses.sizes["position"] // 16, 1)
  for step, color in zip(steps, style.STEP_COLORS):
    line = losses.sel(step=step)
    smooth = line.rolling(position=window, center=True, min_periods=1).mean()
    ax.plot(line.position, line, color=color, linewidth=0.6, alpha=0.4)
    ax.plot(line.position, smooth, color=color, label=f"step {step}")
  style.plot_null(ax, results["loss_by_position_null"], "uniform")
  ax.set_ylim(bottom=0)
  ax.set_xlabel(f"position (bold: mean of {window})")
  ax.set_ylabel("loss by position (nats)")
  style.legend_above(ax, ncols=2)
