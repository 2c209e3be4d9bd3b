"""Global bigrams with triggers (Bietti et al. 2023, arXiv 2306.00802).

Sequences follow one table of bigrams, the same for all, but for a few trigger
tokens: each is always followed by an output token drawn anew for every
sequence. The table is global knowledge, the outputs are in the context alone.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from induction_jax.tasks.chains import make_batch, seen_before, walk
from induction_jax.types import Array, Batch, Key


class Bigrams(NamedTuple):
  """The global knowledge, on the host: one table for every run and seed."""

  table: np.ndarray  # [V, V], rows sum to 1
  marginal: np.ndarray  # [V], its stationary distribution


def make_bigrams(vocab_size: int, dirichlet: float) -> Bigrams:
  """The table of global bigrams: rows ~ Dirichlet, drawn once and for all.

  Bietti et al. count them in a text; any table without much structure does,
  and this one needs no file. It does not depend on the run's seed, so that
  seeds differ in their networks and sequences alone. A low concentration makes
  bigrams as uneven as those of a text.

  Args:
    vocab_size: V.
    dirichlet: concentration of each row.
  """
  # The old generator: its streams never change, so neither does the table.
  random = np.random.RandomState(0)
  table = random.dirichlet(np.full(vocab_size, dirichlet), size=vocab_size)
  # Where all of a row underflows, numpy gives nan.
  table = np.nan_to_num(table) + 1e-9
  table = table / table.sum(axis=1, keepdims=True)
  lazy = (table + np.eye(vocab_size)) / 2  # the same, without periods
  marginal = np.linalg.matrix_power(lazy, 2**20)[0]
  return Bigrams(table, marginal / marginal.sum())


def fixed_triggers(bigrams: Bigrams, triggers: int) -> np.ndarray:  # [K]
  """The most frequent tokens, which serve as triggers if they are fixed."""
  return np.argsort(-bigrams.marginal, kind="stable")[:triggers]


def sample_bigram_trigger(
  key: Key,
  batch_size: int,
  bigrams: Bigrams,
  seq_length: int,
  *,
  triggers: int,
  fixed: bool,
) -> Batch:
  """Draws sequences of global bigrams and triggers.

  The first token follows the table's stationary distribution. An output is
  uniform over all tokens but its trigger (or the trigger would never end).

  Args:
    key: a typed key.
    batch_size: B.
    bigrams: the table.
    seq_length: T.
    triggers: K, of every sequence, below V.
    fixed: whether they are the K most frequent tokens; else every sequence
      draws its own, without replacement, by the stationary distribution.

  Returns:
    A Batch; `predictable` holds at the second and later occurrences of a
    trigger.
  """
  vocab_size = len(bigrams.marginal)
  draw_key, walk_key = jax.random.split(key)
  # All at once: XLA takes a second to compile each draw on a CPU.
  uniform = jax.random.uniform(draw_key, (batch_size, 3 * vocab_size))
  order, output, first = jnp.split(uniform, 3, axis=1)
  log_marginal = jnp.log(jnp.asarray(bigrams.marginal, jnp.float32))[None]
  if fixed:
    most_frequent = fixed_triggers(bigrams, triggers)
    is_trigger = jnp.zeros(order.shape, bool).at[:, most_frequent].set(True)
  else:  # the largest of log p + Gumbel are a draw without replacement
    place = jnp.argsort(jnp.argsort(-(log_marginal + _gumbel(order))))
    is_trigger = place < triggers  # [B, V]
  transitions = jnp.where(
    is_trigger[:, :, None],
    jax.nn.one_hot(_others(output), vocab_size),
    jnp.asarray(bigrams.table, jnp.float32)[None],
  )
  start = jnp.argmax(log_marginal + _gumbel(first), axis=1)
  path = walk(walk_key, transitions, start, seq_length + 1)
  tokens = path[:, :-1]
  triggered = jnp.take_along_axis(is_trigger, tokens, axis=1)
  return make_batch(path, triggered & seen_before(tokens))


def _gumbel(uniform: Array) -> Array:
  return -jnp.log(-jnp.log(uniform))


def _others(uniform: Array) -> Array:  # [B, V] -> [B, V] int
  """For every token one of the others, uniformly."""
  vocab_size = uniform.shape[1]
  shift = 1 + jnp.floor(uniform * (vocab_size - 1)).astype(jnp.int32)
  return (jnp.arange(vocab_size)[None] + shift) % vocab_size
