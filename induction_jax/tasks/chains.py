"""Markov chains, a transition matrix for every sequence: what tasks share."""

import jax
import jax.numpy as jnp

from induction_jax.types import Array, Batch, Key


def walk(key: Key, transitions: Array, first: Array, length: int) -> Array:
  """Draws a path of every chain.

  A row that is one-hot is followed with certainty.

  Args:
    key: a typed key.
    transitions: [B, V, V]; row i is the distribution of what follows i.
    first: [B], the tokens to start from.
    length: T, of the paths.

  Returns:
    Tokens [B, T], int32, the first ones included. Cost: T steps in sequence.
  """
  # All at once: XLA takes a second to compile each draw on a CPU.
  uniform = jax.random.uniform(key, (length - 1, first.size))
  # Without the last column, rounding cannot lead out of the vocabulary.
  cumulative = jnp.cumulative_sum(transitions, axis=-1)[..., :-1]

  def step(token: Array, uniform: Array) -> tuple[Array, Array]:
    row = jnp.take_along_axis(cumulative, token[:, None, None], axis=1)[:, 0]
    token = jnp.sum(uniform[:, None] >= row, axis=-1, dtype=jnp.int32)
    return token, token

  first = first.astype(jnp.int32)
  _, rest = jax.lax.scan(step, first, uniform)
  return jnp.concatenate([first[None], rest]).T


def seen_before(tokens: Array) -> Array:  # [B, T] -> [B, T] bool
  """Whether the token at t stands anywhere before t."""
  same = tokens[:, :, None] == tokens[:, None, :]
  earlier = jnp.tri(tokens.shape[1], k=-1, dtype=bool)
  return jnp.any(same & earlier[None], axis=-1)


def make_batch(path: Array, predictable: Array) -> Batch:
  """A Batch from T + 1 tokens of each sequence; predictable [B, T]."""
  return Batch(path[:, :-1], path[:, 1:], predictable)
