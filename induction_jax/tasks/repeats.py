"""The default task: one pattern, again and again, at unpredictable places."""

import jax
import jax.numpy as jnp

from induction_jax.types import Array, Batch, Key


def sample_repeats(
  key: Key,
  batch_size: int,
  vocab_size: int,
  seq_length: int,
  *,
  pattern: tuple[int, int],
  gap: tuple[int, int],
) -> Batch:
  """Draws sequences in which one pattern of distinct tokens keeps returning.

  Each sequence has one pattern, its length uniform in `pattern` (inclusive).
  Its occurrences are separated by fillers, each length uniform in `gap`
  (inclusive), and the sequence starts at a uniformly random place in the first
  occurrence and its filler. Filler tokens are uniform over the tokens that are
  not in the pattern, so a pattern token is always followed by its successor.
  No fixed distance predicts anything unless the gap range is a single value.

  Args:
    key: a typed key.
    batch_size: B.
    vocab_size: V, above the longest pattern.
    seq_length: T.
    pattern: shortest and longest pattern.
    gap: shortest and longest filler.

  Returns:
    A Batch; `predictable[b, t]` holds where tokens[b, t] and its successor lie
    in the same occurrence and that token occurred before in the sequence. The
    first token of an occurrence never counts: its place is random.
  """

  def sample_one(key: Key) -> Batch:
    return _sample_sequence(key, vocab_size, seq_length, pattern, gap)

  return jax.vmap(sample_one)(jax.random.split(key, batch_size))


def _sample_sequence(
  key: Key,
  vocab_size: int,
  seq_length: int,
  pattern: tuple[int, int],
  gap: tuple[int, int],
) -> Batch:
  keys = jax.random.split(key, 5)
  length = jax.random.randint(keys[0], (), pattern[0], pattern[1] + 1)
  # Enough occurrences for the shortest pattern and gap to fill the sequence.
  occurrences = (seq_length + 1) // (pattern[0] + gap[0]) + 2
  gaps = jax.random.randint(keys[1], (occurrences,), gap[0], gap[1] + 1)
  starts = jnp.cumulative_sum(length + gaps, include_initial=True)[:-1]
  offset = jax.random.randint(keys[2], (), 0, length + gaps[0])

  place = offset + jnp.arange(seq_length + 1)  # [T + 1]
  occurrence = jnp.sum(place[:, None] >= starts[None, 1:], axis=1)  # [T + 1]
  index = place - starts[occurrence]  # place within occurrence and its filler
  in_pattern = index < length

  vocabulary = jax.random.permutation(keys[3], vocab_size)  # pattern first
  filler = jax.random.randint(
    keys[4], (seq_length + 1,), length, vocab_size, dtype=index.dtype
  )
  tokens = vocabulary[jnp.where(in_pattern, index, filler)]

  return Batch(
    tokens=tokens[:-1],
    targets=tokens[1:],
    predictable=_predictable(index, occurrence, length, offset),
  )


def _predictable(
  index: Array,  # [T + 1]
  occurrence: Array,  # [T + 1]
  length: Array,
  offset: Array,
) -> Array:  # [T] bool
  """Token and successor in one occurrence, and that token seen before.

  The sequence cuts off the first `offset` tokens of occurrence 0, so in
  occurrence 1 only the tokens from there on have been seen.
  """
  seen = (occurrence > 1) | ((occurrence == 1) & (index >= offset))
  return (seen & (index < length - 1))[:-1]
