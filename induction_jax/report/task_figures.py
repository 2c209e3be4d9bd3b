"""Figures of the tasks with reference solutions: markov, bigram_trigger."""

from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from induction_jax.report import style
from induction_jax.report.findings import Findings, measured

# A memory whose recall never rises so far above its null has not formed.
MIN_RISE = 0.25


class Memory(NamedTuple):
  """One associative memory through training.

  Attributes:
    recall: [step], the highest recall over heads or pairs of heads.
    null: the null value for a single head. The highest of several heads has a
      slightly larger one.
    half_way: the first step after which the recall stays at least half-way
      between its null and its maximum. None if the recall never rises by
      MIN_RISE or is lost again.
  """

  recall: xr.DataArray
  null: float
  half_way: int | None


def plot_markov(results: xr.Dataset, findings: Findings) -> Figure:
  """Loss beside that of known strategies, and the divergence from each."""
  figure, axes = plt.subplots(1, 2, figsize=(style.WIDTH, 2.8))
  _plot_losses(axes[0], results)
  for name, color in (
    ("uniform", style.BLACK),
    ("unigram", style.ORANGE),
    ("bigram", style.BLUE),
  ):
    style.plot_curve(axes[1], results[f"kl_{name}"], name, color)
  axes[1].set_ylabel("KL(strategy ‖ network) (nats)")
  style.log_axis(axes[1].yaxis)
  style.legend_above(axes[1], ncols=3)
  for ax in axes:
    style.step_axis(ax, results.step.values, findings)
  return figure


def plot_memory(results: xr.Dataset, findings: Findings) -> Figure:
  """Recall of the three memories, beside accuracy and attention scores."""
  figure, axes = plt.subplots(1, 2, figsize=(style.WIDTH, 2.8), sharey=True)
  for (name, memory), color in zip(
    find_memories(results).items(), (style.VERMILION, style.GREEN, style.BLUE)
  ):
    _plot_memory(axes[0], name, memory, color)
  axes[0].set_ylabel("recall (best head; dotted: null)")
  style.legend_above(axes[0], ncols=3, title="stays above half-way from step")
  for name, label, color in (
    ("pattern_accuracy", "accuracy", style.BLACK),
    ("previous_token", "previous token", style.BLUE),
    ("prefix_matching", "prefix matching", style.GREEN),
  ):
    style.plot_curve(axes[1], _best(results[name]), label, color)
  axes[1].set_ylabel("accuracy; attention of the best head")
  axes[1].tick_params(labelleft=True)
  style.legend_above(axes[1], ncols=3)
  axes[0].set_ylim(-0.02, 1.02)
  for ax in axes:
    style.step_axis(ax, results.step.values, findings)
  return figure


def find_memories(results: xr.Dataset) -> dict[str, Memory]:
  """The measured ones of W_O2 (later layers), W_K2 (pairs), W_K1 (layer 0)."""
  later = slice(1, None) if results.sizes["layer"] > 1 else slice(None)
  layers = {"w_o2": later, "w_k2": slice(None), "w_k1": slice(1)}
  return {
    name: _memory(
      _best(results[f"{name}_recall"].isel(layer=shown)),
      float(results[f"{name}_recall_null"]),
    )
    for name, shown in layers.items()
    if f"{name}_recall" in results
  }


def _memory(recall: xr.DataArray, null: float) -> Memory:
  highest = float(recall.max())
  if highest < null + MIN_RISE:
    return Memory(recall, null, None)
  below = np.flatnonzero(recall.values < (null + highest) / 2)
  first = below[-1] + 1 if below.size else 0
  steps = recall.step.values
  return Memory(recall, null, int(steps[first]) if first < len(steps) else None)


def _best(scores: xr.DataArray) -> xr.DataArray:
  """The highest value over heads at each step."""
  return measured(scores.max([dim for dim in scores.dims if dim != "step"]))


def _plot_memory(ax: Axes, name: str, memory: Memory, color: str) -> None:
  half_way = memory.half_way
  symbol = f"$W_{{{name[2].upper()}}}^{{{name[3]}}}$"
  when = "-" if half_way is None else str(half_way)
  style.plot_curve(ax, memory.recall, f"{symbol}: {when}", color)
  style.plot_null(ax, memory.null, None, color=color)
  if half_way is not None:
    at = float(memory.recall.sel(step=half_way))
    ax.plot(half_way, at, "o", color=color, markersize=4)


def _plot_losses(ax: Axes, results: xr.Dataset) -> None:
  style.plot_curve(ax, results["markov_loss"], "network", style.VERMILION)
  known = "bayes_loss" in results
  bigrams = "bigrams (Bayes)" if known else "bigrams"
  references = {
    "uniform": ("markov_loss_null", style.BLACK, ":"),
    "unigrams": ("unigram_loss", style.ORANGE, ":"),
    "unigrams, smoothed": ("smoothed_unigram_loss", style.ORANGE, "--"),
    bigrams: ("bigram_loss", style.BLUE, "--"),
  }
  if not known:  # the optimum lies between the bigrams and this loss
    references["matrix known"] = ("chain_loss", style.GREEN, "-.")
  values = []
  for label, (name, color, line) in references.items():
    values.append(float(results[name]))
    ax.axhline(values[-1], color=color, linestyle=line, label=label)
  margin = 0.15 * (max(values) - min(values))
  # The high losses at the start of training are cut off.
  ax.set_ylim(min(values) - margin, max(values) + margin)
  ax.set_ylabel("loss, all tokens (nats)")
  style.legend_above(ax, ncols=3)
