"""Attention patterns of perfect heads, to put in place of a head's own."""

import jax.numpy as jnp

from induction_jax.circuits.attention import prefix_mask
from induction_jax.types import Array


def previous_token_pattern(length: int) -> Array:
  """All attention on the position before, [T, S]; position 0 on itself."""
  return jnp.eye(length, k=-1).at[0, 0].set(1)


def induction_pattern(own: Array, tokens: Array) -> Array:
  """All attention on what followed earlier occurrences of the current token.

  Args:
    own: the head's own pattern, [B, H, T, S].
    tokens: [B, T].

  Returns:
    [B, H, T, S], uniform over the earlier occurrences, so that prefix matching
    is 1. A token that did not occur before keeps its row of `own`: an
    induction head has nothing to say there.
  """
  mask = prefix_mask(tokens)[:, None]  # [B, 1, T, S]
  count = jnp.sum(mask, axis=-1, keepdims=True)
  return jnp.where(count > 0, mask / jnp.maximum(count, 1), own)
