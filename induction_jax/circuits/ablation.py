"""What the loss pays when heads are changed: causal evidence for a circuit.

An intervention says for every head what becomes of its output and of its
pattern; what is downstream sees the change. A table of interventions is swept
as one program: each costs a forward pass, and none a compilation of its own.

  ablation          the head writes nothing
  mean_ablation     the head writes its mean over all sequences and positions,
                    whatever they are (Wang et al. 2022, arXiv 2211.00593). A
                    mean for each position would be one over B sequences alone,
                    and so give away a B-th of each.
  frozen_ablation   the head writes nothing, and the patterns of all heads
                    stay what they were: what it does through the values of
                    others, and not by where they look ("pattern-preserving",
                    Olsson et al. 2022, arXiv 2209.11895)
  previous_token_pattern, induction_pattern
                    a perfect pattern in place of the head's own: no cost says
                    that nothing else in its pattern matters
"""

from collections.abc import Callable, Mapping
from itertools import combinations
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from induction_jax.circuits.estimates import Estimate, estimate_mean
from induction_jax.circuits.ideal import (
  induction_pattern,
  previous_token_pattern,
)
from induction_jax.types import Array

# What a head's output and its pattern can be: entries of an Intervention.
OWN, ZERO, MEAN = 0, 1, 2
INTACT, PREVIOUS_TOKEN, INDUCTION = 1, 2, 3


class Intervention(NamedTuple):
  """What every head is made to do; a table of N of them is [N, L, H]."""

  output: Array | np.ndarray  # [L, H] OWN, ZERO or MEAN
  pattern: Array | np.ndarray  # [L, H] OWN, INTACT, PREVIOUS_TOKEN, INDUCTION


class Intact(NamedTuple):
  """What heads did before any intervention."""

  pattern: Array  # [L, B, H, T, S]
  mean_output: Array  # [L, H, D], over all sequences and positions


def single_heads(n_layers: int, n_heads: int) -> dict[str, Intervention]:
  """Every head in turn, [L H, L, H], for each kind of intervention."""
  n = n_layers * n_heads
  one = np.eye(n, dtype=int).reshape(n, n_layers, n_heads)
  none, every = np.zeros_like(one), np.ones_like(one)
  return {
    "ablation": Intervention(ZERO * one, none),
    "mean_ablation": Intervention(MEAN * one, none),
    "frozen_ablation": Intervention(ZERO * one, INTACT * every),
    "previous_token_pattern": Intervention(none, PREVIOUS_TOKEN * one),
    "induction_pattern": Intervention(none, INDUCTION * one),
  }


def pairs_of_heads(
  n_layers: int, n_heads: int
) -> tuple[Intervention, np.ndarray]:
  """Zero ablation of two heads of different layers at once, each pair once.

  Returns:
    The table [N, L, H], and [4, N]: layer and head of the later head of each
    pair, then of the earlier one. N = H^2 L (L - 1) / 2.
  """
  heads = [(i, j) for i in range(n_layers) for j in range(n_heads)]
  pairs = [(b, a) for a, b in combinations(heads, 2) if a[0] < b[0]]
  index = np.array(pairs, dtype=int).reshape(-1, 4).T
  output = np.zeros((index.shape[1], n_layers, n_heads), dtype=int)
  each = np.arange(index.shape[1])
  output[each, index[0], index[1]] = ZERO
  output[each, index[2], index[3]] = ZERO
  return Intervention(output, np.zeros_like(output)), index


def edit_output(
  intervention: Intervention, intact: Intact
) -> Callable[[int, Array], Array]:
  """The intervention as an edit of outputs: (layer, [B, H, T, D]) -> same."""

  def edit(layer: int, output: Array) -> Array:
    what = intervention.output[layer][None, :, None, None]
    mean = intact.mean_output[layer][None, :, None]
    return jnp.where(
      what == OWN, output, jnp.where(what == MEAN, mean, jnp.zeros_like(mean))
    )

  return edit


def edit_pattern(
  intervention: Intervention, intact: Intact
) -> Callable[[int, Array, Array], Array]:
  """The intervention as an edit of patterns.

  Returns:
    (layer, pattern [B, H, T, S], tokens [B, T]) -> pattern.
  """

  def edit(layer: int, pattern: Array, tokens: Array) -> Array:
    what = intervention.pattern[layer][None, :, None, None]
    previous = previous_token_pattern(tokens.shape[1])[None, None]
    for choice, given in (
      (INTACT, intact.pattern[layer]),
      (PREVIOUS_TOKEN, previous),
      (INDUCTION, induction_pattern(pattern, tokens)),
    ):
      pattern = jnp.where(what == choice, given, pattern)
    return pattern

  return edit


def sweep(
  losses: Callable[[Intervention], Array],
  intact: Array,
  tables: Mapping[str, Intervention],
  weights: Mapping[str, Array],
) -> dict[str, dict[str, Estimate]]:
  """The rise of the loss under every intervention of some tables.

  Args:
    losses: intervention -> token losses [B, T].
    intact: token losses without any.
    tables: of N interventions each, [N, L, H].
    weights: [B, T], which tokens count.

  Returns:
    For each table and each of `weights` the rise over the intact network, in
    the unit of the losses, and its standard error over sequences, both [N].
    Cost: a forward pass for every intervention; the memory of one.
  """

  def rise(row: Intervention) -> dict[str, Estimate]:
    change = losses(row) - intact
    return {name: estimate_mean(change, w) for name, w in weights.items()}

  # One loop over all tables: the network is compiled once.
  rows = jax.tree.map(lambda *x: jnp.concatenate(x), *tables.values())
  rises = jax.lax.map(rise, rows)
  sizes = [table.output.shape[0] for table in tables.values()]
  ends = np.cumsum([0, *sizes])
  return {
    name: jax.tree.map(lambda x, i=i: x[ends[i] : ends[i + 1]], rises)
    for i, name in enumerate(tables)
  }
