"""Attention patterns: scores of heads, their null values, and ideal patterns.

Every score is an attention mass in [0, 1], averaged over positions. Its null
value is the same average under uniform causal attention on the same batch.
"""

from typing import NamedTuple

import jax.numpy as jnp

from induction_jax.types import Array, Batch


class HeadScores(NamedTuple):
  """Scores of heads, [L, H]; scalars if they are null values.

  Attributes:
    prefix_matching: mass on the tokens that followed earlier occurrences of
      the current token, summed over all occurrences; mean over predictable
      positions (Olsson et al. 2022, arXiv 2209.11895).
    previous_token: mass on the previous position; mean over t >= 1.
    duplicate_token: mass on earlier copies of the current token; mean over
      predictable positions.
  """

  prefix_matching: Array
  previous_token: Array
  duplicate_token: Array


def score_heads(pattern: Array, batch: Batch) -> HeadScores:
  """Scores of every head on a batch, from its pattern [L, B, H, T, S]."""
  t = jnp.arange(pattern.shape[-1])

  def mass(where: Array) -> Array:  # [B, T, S] bool -> [L, B, H, T]
    # A sum of products instead of an einsum: XLA fuses the broadcast mask.
    return jnp.sum(jnp.where(where[None, :, None], pattern, 0), axis=-1)

  def mean(values: Array) -> Array:  # over predictable positions
    weights = batch.predictable[None, :, None].astype(values.dtype)
    total = jnp.maximum(jnp.sum(batch.predictable), 1)
    return jnp.sum(values * weights, axis=(1, 3)) / total

  previous = jnp.broadcast_to(
    t[:, None] == t[None, :] + 1, (pattern.shape[1], t.size, t.size)
  )
  return HeadScores(
    prefix_matching=mean(mass(prefix_mask(batch.tokens))),
    previous_token=jnp.mean(mass(previous)[..., 1:], axis=(1, 3)),
    duplicate_token=mean(mass(duplicate_mask(batch.tokens))),
  )


def join_scores(scores: HeadScores, predictable: Array) -> HeadScores:
  """The scores of a batch from the scores of its n equal parts.

  Args:
    scores: of each part, [n, L, H].
    predictable: [n, B, T], the parts' predictable positions.
  """
  counts = jnp.sum(predictable, axis=(1, 2))  # [n]
  share = counts / jnp.maximum(jnp.sum(counts), 1)

  def mean(values: Array) -> Array:
    return jnp.sum(share[:, None, None] * values, axis=0)

  return HeadScores(
    prefix_matching=mean(scores.prefix_matching),
    previous_token=jnp.mean(scores.previous_token, axis=0),
    duplicate_token=mean(scores.duplicate_token),
  )


def null_scores(batch: Batch) -> HeadScores:
  """The scores of uniform causal attention on this batch, as scalars."""
  length = batch.tokens.shape[1]
  causal = jnp.tri(length)
  uniform = causal / jnp.sum(causal, axis=-1, keepdims=True)
  pattern = jnp.broadcast_to(
    uniform, (1, batch.tokens.shape[0], 1, length, length)
  )
  return HeadScores(*(x[0, 0] for x in score_heads(pattern, batch)))


def prefix_mask(tokens: Array) -> Array:  # [B, T] -> [B, T, S] bool
  """Keys that followed a copy: token s - 1 equals token t, 1 <= s <= t."""
  matches = duplicate_mask(tokens)
  return jnp.pad(matches[:, :, :-1], ((0, 0), (0, 0), (1, 0)))


def duplicate_mask(tokens: Array) -> Array:  # [B, T] -> [B, T, S] bool
  """Earlier copies of the current token: token s equals token t, s < t."""
  same = tokens[:, :, None] == tokens[:, None, :]
  return same & jnp.tri(tokens.shape[1], k=-1, dtype=bool)[None]


# Patterns of perfect heads, to replace a head's own pattern.


def previous_token_pattern(length: int) -> Array:
  """All attention on the previous position, [T, S]; position 0 on itself."""
  return jnp.eye(length, k=-1).at[0, 0].set(1)


def induction_pattern(own: Array, tokens: Array) -> Array:
  """All attention on what followed earlier occurrences of the current token.

  Args:
    own: the head's own pattern, [B, H, T, S].
    tokens: [B, T].

  Returns:
    [B, H, T, S], uniform over the earlier occurrences, so that prefix matching
    is 1. Where the token has not occurred before, the row of `own` is kept: an
    induction head is undefined there.
  """
  mask = prefix_mask(tokens)[:, None]  # [B, 1, T, S]
  count = jnp.sum(mask, axis=-1, keepdims=True)
  return jnp.where(count > 0, mask / jnp.maximum(count, 1), own)
