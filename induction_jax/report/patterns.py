"""Attention patterns of the two heads that matter, on one sequence."""

from typing import NamedTuple

import jax
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from induction_jax.circuits import prefix_mask
from induction_jax.model import Model
from induction_jax.report import style
from induction_jax.report.findings import Findings
from induction_jax.types import Array, Batch, Params

LONGEST = 64  # positions shown; more are unreadable


class Shown(NamedTuple):
  """What one sequence of `repeats` does in a trained network."""

  batch: Batch  # of one sequence
  pattern: np.ndarray  # [L, H, T, S]


def run_sequence(model: Model, params: Params, batch: Batch) -> Shown:
  """What the first sequence of a batch does, in its company.

  A head that is clamped to its mean over sequences needs the others.
  """

  @jax.jit
  def patterns(params: Params) -> Array:
    return model.apply(params, batch.tokens)[1].pattern[:, 0]

  first = jax.tree.map(lambda x: x[:1], batch)
  return Shown(first, np.asarray(patterns(params)))


def plot_patterns(sequence: Shown, findings: Findings) -> Figure:
  """Patterns of the best previous-token and the best prefix-matching head."""
  shown = min(LONGEST, sequence.pattern.shape[-1])
  figure, axes = plt.subplots(1, 2, figsize=(style.WIDTH, 3.6))
  for ax, head, name in (
    (axes[0], findings.previous_token_head, "best previous-token head"),
    (axes[1], findings.induction_head, findings.induction_head_name),
  ):
    image = ax.imshow(
      sequence.pattern[head.layer, head.head, :shown, :shown],
      vmin=0,
      vmax=1,
      cmap="magma_r",
    )
    ax.set(
      title=f"{name} {head.layer}.{head.head}",
      xlabel="key position",
      ylabel="query position",
    )
  _mark_targets(axes[1], sequence.batch, shown)
  figure.colorbar(image, ax=axes, label="attention", shrink=0.8)
  return figure


def _mark_targets(ax: Axes, batch: Batch, shown: int) -> None:
  """Boxes where prefix matching is judged: predictable queries."""
  where = np.asarray(prefix_mask(batch.tokens))[0]
  where = where & np.asarray(batch.predictable)[0][:, None]
  queries, keys = np.nonzero(where[:shown, :shown])
  ax.plot(
    keys,
    queries,
    "s",
    markersize=3.2,
    markerfacecolor="none",
    markeredgewidth=0.5,
    color=style.BLUE,
    label="tokens after earlier occurrences",
  )
  ax.legend(loc="upper right")
