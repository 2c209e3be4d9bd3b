"""What heads attend to: scores of attention patterns, with exact nulls.

Every score is an attention mass in [0, 1], averaged over positions. Its null
is the same average under uniform causal attention on the same batch.
"""

from typing import NamedTuple

import jax.numpy as jnp

from induction_jax.types import Array, Batch


class HeadScores(NamedTuple):
  """Scores per head, [L, H]; scalars where they are nulls.

  Attributes:
    prefix_matching: mass on the tokens that followed earlier occurrences of
      the current token, all of them; mean over predictable positions (Olsson
      et al. 2022, with the sum over every occurrence).
    previous_token: mass on the previous position; mean over t >= 1.
    duplicate_token: mass on earlier copies of the current token; mean over
      predictable positions.
  """

  prefix_matching: Array
  previous_token: Array
  duplicate_token: Array


def score_heads(pattern: Array, batch: Batch) -> HeadScores:
  """Scores every head on a batch; pattern [L, B, H, T, S]."""
  t = jnp.arange(pattern.shape[-1])

  def mass(where: Array) -> Array:  # [B, T, S] bool -> [L, B, H, T]
    # A sum of products, not an einsum: a mask broadcast over heads fuses.
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
  """The scores of a batch from those of its n equal parts.

  Args:
    scores: of each part, [n, L, H].
    predictable: [n, B, T], which positions are.
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
  """The scores of uniform causal attention on this batch, scalars."""
  length = batch.tokens.shape[1]
  causal = jnp.tri(length)
  uniform = causal / jnp.sum(causal, axis=-1, keepdims=True)
  pattern = jnp.broadcast_to(
    uniform, (1, batch.tokens.shape[0], 1, length, length)
  )
  return HeadScores(*(x[0, 0] for x in score_heads(pattern, batch)))


def prefix_mask(tokens: Array) -> Array:  # [B, T] -> [B, T, S] bool
  """Where an induction head looks: token s - 1 equals token t, 1 <= s <= t."""
  matches = duplicate_mask(tokens)
  return jnp.pad(matches[:, :, :-1], ((0, 0), (0, 0), (1, 0)))


def duplicate_mask(tokens: Array) -> Array:  # [B, T] -> [B, T, S] bool
  """Earlier copies of the current token: token s equals token t, s < t."""
  same = tokens[:, :, None] == tokens[:, None, :]
  return same & jnp.tri(tokens.shape[1], k=-1, dtype=bool)[None]
