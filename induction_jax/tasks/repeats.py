"""The default task: one pattern that returns at unpredictable distances."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from induction_jax.config import TaskConfig
from induction_jax.types import Array, Batch, Key, Sampler

# Vocabularies up to this size are permuted by one sort (see _permutation).
SMALL_VOCABULARY = 64


def make_repeats(config: TaskConfig, batch_size: int) -> Sampler:
  """The sampler of the task `repeats`.

  Heads are judged on its sequences, whatever the run's own task is.
  """
  return lambda key: sample_repeats(
    key,
    batch_size,
    config.vocab_size,
    config.seq_length,
    pattern=(config.pattern_min, config.pattern_max),
    gap=(config.gap_min, config.gap_max),
  )


def make_back_to_back(config: TaskConfig, batch_size: int) -> Sampler:
  """A sampler of random distinct tokens, repeated without gaps.

  Olsson et al. 2022 (arXiv 2209.11895) evaluate heads on such sequences. Here
  the period is drawn for every sequence, between a quarter and a half of the
  sequence if the vocabulary is large enough, so that attention at one fixed
  distance does not pass for prefix matching. (With three tokens every period is
  two, and it does.)
  """
  longest = max(2, min(config.seq_length // 2, config.vocab_size - 1))
  return lambda key: sample_repeats(
    key,
    batch_size,
    config.vocab_size,
    config.seq_length,
    pattern=(max(2, longest // 2), longest),
    gap=(0, 0),
  )


def sample_repeats(
  key: Key,
  batch_size: int,
  vocab_size: int,
  seq_length: int,
  *,
  pattern: tuple[int, int],
  gap: tuple[int, int],
) -> Batch:
  """Draws sequences in which one pattern of distinct tokens returns.

  Each sequence has one pattern, with a length uniform in `pattern`. A gap
  follows each occurrence, with a length uniform in `gap`, filled with tokens
  drawn uniformly from those that are not in the pattern. Within the pattern, a
  token is therefore always followed by the same successor. The sequence starts
  at a uniformly random position in the first occurrence or its gap.

  The distance to the previous occurrence varies from sequence to sequence, and
  within a sequence unless all gaps have one length.

  Args:
    key: a typed key.
    batch_size: B.
    vocab_size: V, above the length of the longest pattern.
    seq_length: T.
    pattern: lengths of the shortest and the longest pattern.
    gap: lengths of the shortest and the longest gap.

  Returns:
    A Batch; targets are predictable where tokens[b, t] and targets[b, t] are in
    the same occurrence and tokens[b, t] has occurred in an earlier one. The
    first token of an occurrence never counts, because its position is random.
  """
  # Enough to fill the sequence with the shortest pattern and gap.
  occurrences = (seq_length + 1) // (pattern[0] + gap[0]) + 2
  sizes = (1, occurrences, 1, vocab_size, seq_length + 1)
  # In one draw, because XLA takes a second to compile each draw on a CPU.
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

  position = offset + jnp.arange(seq_length + 1)  # [T + 1]
  occurrence = jnp.sum(position[:, None] >= starts[None, 1:], axis=1)  # [T + 1]
  index = position - starts[occurrence]  # within an occurrence and its gap
  in_pattern = index < length

  vocabulary = _permutation(bits.vocabulary)  # begins with the pattern
  filler = _between(bits.filler, length, vocabulary.size)
  tokens = vocabulary[jnp.where(in_pattern, index, filler)]
  return Batch.from_sequences(
    tokens, _predictable(index, occurrence, length, offset)
  )


def _between(bits: Array, low: Array | int, high: Array | int) -> Array:
  """Integers from low to high - 1; the bias is at most (high - low) / 2^32."""
  span = jnp.asarray(high - low, jnp.uint32)
  return low + (bits % span).astype(jnp.int32)


def _permutation(bits: Array) -> Array:  # [V] -> [V]
  """A random permutation of 0 to V - 1.

  For a small vocabulary, each number is stored in the low bits of its random
  integer and all are sorted by the high bits: on a CPU, XLA sorts one array
  twenty times faster than a pair of arrays. Two equal high parts leave their
  numbers in ascending order, which happens to about one pair of neighbours in
  2^20.
  """
  if bits.size > SMALL_VOCABULARY:
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
  """True where a token of the pattern has occurred before, except for its last.

  The first `offset` tokens of occurrence 0 are before the sequence, so in
  occurrence 1 only the tokens from `offset` on have occurred.
  """
  seen = (occurrence > 1) | ((occurrence == 1) & (index >= offset))
  return (seen & (index < length - 1))[:-1]
