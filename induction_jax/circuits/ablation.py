"""Causal evidence for a circuit: a head's output replaced, and what it costs.

  ablation          the output is zero (zero-ablation)
  mean_ablation     the output is its mean over all sequences and positions
                    (Wang et al. 2022, arXiv 2211.00593). A mean for each
                    position would be one over B sequences only, and so reveal
                    1 / B of each sequence's own output.
  frozen_ablation   the output is zero, and the patterns of all heads are kept:
                    this measures the head's effect through the values of later
                    heads, not through where they attend ("pattern-preserving":
                    Olsson et al. 2022, arXiv 2209.11895)
  previous_token_pattern, induction_pattern
                    an ideal pattern replaces the head's own: if it costs
                    nothing, nothing else in the pattern mattered

Heads in one layer do not read one another: whatever is done to one of them, the
others write what they wrote, and only the layers above are computed again.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from induction_jax.circuits.attention import (
  induction_pattern,
  previous_token_pattern,
)
from induction_jax.types import Array

FROZEN = "frozen_ablation"
KINDS = (
  *("ablation", "mean_ablation", FROZEN),
  *("previous_token_pattern", "induction_pattern"),
)


class Estimate(NamedTuple):
  """A mean over tokens and its standard error over sequences."""

  mean: Array
  standard_error: Array


def estimate_mean(values: Array, weights: Array) -> Estimate:
  """The mean of `values` [..., B, T] over tokens, with a standard error.

  Tokens of one sequence are not independent, so the standard error is over
  sequences. Sequences differ in how many tokens count, so it is that of the
  ratio estimator (Cochran 1977, chapter 6).

  Args:
    values: one number for each token.
    weights: [B, T], 1 for tokens that count and 0 for others.

  Returns:
    Mean and standard error, [...]; both 0 if no token counts.
  """
  sequences = weights.shape[0]
  weights = jnp.expand_dims(weights, tuple(range(values.ndim - 2)))
  total = jnp.maximum(jnp.sum(weights), 1)
  mean = jnp.sum(values * weights, axis=(-2, -1)) / total
  deviation = jnp.sum((values - mean[..., None, None]) * weights, axis=-1)
  variance = jnp.sum(deviation**2, axis=-1) * sequences / max(sequences - 1, 1)
  return Estimate(mean, jnp.sqrt(variance) / total)


def changed_output(
  kind: Array,
  pattern: Array,
  value: Array,
  write: Callable[[Array], Array],
  mean: Array,
  tokens: Array,
) -> Array:
  """The output of a head under one of KINDS.

  Args:
    kind: index into KINDS; may be traced.
    pattern: the head's own, [B, T, S].
    value: [B, S, K].
    write: values mixed by a pattern [B, T, K] -> output [B, T, D].
    mean: of the head's output over all sequences and positions, [D].
    tokens: [B, T].

  Returns:
    [B, T, D].
  """
  average = jnp.broadcast_to(mean[None, None], (*tokens.shape, mean.size))

  def zero() -> Array:
    return jnp.zeros_like(average)

  def output_under(ideal: Array) -> Array:  # [B or 1, T, S]
    ideal = jnp.broadcast_to(ideal, pattern.shape)
    return write(jnp.einsum("bts,bsk->btk", ideal, value))

  def under_previous_token() -> Array:
    return output_under(previous_token_pattern(tokens.shape[1])[None])

  def under_induction() -> Array:
    return output_under(induction_pattern(pattern[:, None], tokens)[:, 0])

  branches: dict[str, Callable[[], Array]] = {
    "ablation": zero,
    "mean_ablation": lambda: average,
    FROZEN: zero,
    "previous_token_pattern": under_previous_token,
    "induction_pattern": under_induction,
  }
  return jax.lax.switch(kind, [branches[name] for name in KINDS])
