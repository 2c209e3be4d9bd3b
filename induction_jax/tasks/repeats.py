"""The default task: one pattern, again and again, at unpredictable places."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from induction_jax.types import Array, Batch, Key

FEW = 64  # tokens, for which ties are rare enough


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
  # Enough occurrences for the shortest pattern and gap to fill the sequence.
  occurrences = (seq_length + 1) // (pattern[0] + gap[0]) + 2
  sizes = (1, occurrences, 1, vocab_size, seq_length + 1)
  # All at once: XLA takes a second to compile each draw on a CPU.
  bits = jax.random.bits(key, (batch_size, sum(sizes)))
  pieces = jnp.split(bits, np.cumsum(sizes)[:-1], axis=1)
  return jax.vmap(
    lambda *bits: _make_sequence(_Bits(*bits), seq_length, pattern, gap)
  )(*pieces)


class _Bits(NamedTuple):
  """Random 32-bit integers for one sequence."""

  length: Array  # [1]
  gaps: Array  # [occurrences]
  offset: Array  # [1]
  vocabulary: Array  # [V]
  filler: Array  # [T + 1]


def _make_sequence(
  bits: _Bits, seq_length: int, pattern: tuple[int, int], gap: tuple[int, int]
) -> Batch:
  length = _between(bits.length[0], pattern[0], pattern[1] + 1)
  gaps = _between(bits.gaps, gap[0], gap[1] + 1)
  starts = jnp.cumulative_sum(length + gaps, include_initial=True)[:-1]
  offset = _between(bits.offset[0], 0, length + gaps[0])

  place = offset + jnp.arange(seq_length + 1)  # [T + 1]
  occurrence = jnp.sum(place[:, None] >= starts[None, 1:], axis=1)  # [T + 1]
  index = place - starts[occurrence]  # place within occurrence and its filler
  in_pattern = index < length

  vocabulary = _permutation(bits.vocabulary)  # pattern first
  filler = _between(bits.filler, length, vocabulary.size)
  tokens = vocabulary[jnp.where(in_pattern, index, filler)]

  return Batch(
    tokens=tokens[:-1],
    targets=tokens[1:],
    predictable=_predictable(index, occurrence, length, offset),
  )


def _between(bits: Array, low: Array | int, high: Array | int) -> Array:
  """Integers from low to high - 1, even to one part in 2^32 / (high - low)."""
  span = jnp.asarray(high - low, jnp.uint32)
  return low + (bits % span).astype(jnp.int32)


def _permutation(bits: Array) -> Array:  # [V] -> [V]
  """A random order of 0 to V - 1.

  Of few, the order of the high bits, each integer standing in its own low
  bits: XLA sorts one array twenty times faster on a CPU than a pair. Then a tie
  puts two in ascending order: with 26 bits one pair of neighbours in 2^20.
  """
  if bits.size > FEW:
    return jnp.argsort(bits)
  low = (1 << (bits.size - 1).bit_length()) - 1
  marked = bits & ~jnp.uint32(low) | jnp.arange(bits.size, dtype=jnp.uint32)
  return (jnp.sort(marked, stable=False) & low).astype(jnp.int32)


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
