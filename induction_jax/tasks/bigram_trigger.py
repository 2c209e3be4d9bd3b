"""Global bigrams with trigger tokens (Bietti et al. 2023, arXiv 2306.00802).

All sequences follow one table of bigrams, except after a few trigger tokens. A
trigger is always followed by its output, a token that is drawn for every
sequence. The table can be learnt in the weights, the outputs only in context.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from induction_jax.config import TaskConfig
from induction_jax.tasks.markov import sample_paths, seen_before
from induction_jax.types import Array, Batch, Key, Sampler


class Bigrams(NamedTuple):
  """The table of bigrams, on the host; every run and seed has the same one."""

  table: np.ndarray  # [V, V], rows sum to 1
  marginal: np.ndarray  # [V], its stationary distribution


def make_bigram_trigger(config: TaskConfig, batch_size: int) -> Sampler:
  """The sampler of the task `bigram_trigger`."""
  bigrams = make_bigrams(config.vocab_size, config.dirichlet)
  return lambda key: sample_bigram_trigger(
    key,
    batch_size,
    bigrams,
    config.seq_length,
    triggers=config.triggers,
    fixed=config.fixed_triggers,
  )


def make_bigrams(vocab_size: int, dirichlet: float) -> Bigrams:
  """Draws the table of bigrams, with Dirichlet rows.

  Bietti et al. count bigrams in a text instead. The draw does not depend on the
  run's seed, so that seeds differ only in their networks and sequences. A low
  concentration makes the bigrams as uneven as those of a text.

  Args:
    vocab_size: V.
    dirichlet: concentration of each row.
  """
  # RandomState, because numpy guarantees that its streams never change.
  random = np.random.RandomState(0)
  table = random.dirichlet(np.full(vocab_size, dirichlet), size=vocab_size)
  # numpy returns nan for a row in which every entry underflows.
  table = np.nan_to_num(table) + 1e-9
  table = table / table.sum(axis=1, keepdims=True)
  # The lazy chain has the same stationary distribution and is aperiodic.
  lazy = (table + np.eye(vocab_size)) / 2
  marginal = np.linalg.matrix_power(lazy, 2**20)[0]
  return Bigrams(table, marginal / marginal.sum())


def fixed_triggers(bigrams: Bigrams, triggers: int) -> np.ndarray:  # [K]
  """The K most frequent tokens, the triggers if `fixed_triggers` is set."""
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

  The first token has the table's stationary distribution. An output is uniform
  over all tokens except its trigger, which would otherwise repeat for ever.

  Args:
    key: a typed key.
    batch_size: B.
    bigrams: the table.
    seq_length: T.
    triggers: K, the number of triggers in a sequence, below V.
    fixed: whether the triggers are the K most frequent tokens; otherwise they
      are drawn for every sequence from the stationary distribution, without
      replacement.

  Returns:
    A Batch; targets after the second and later occurrences of a trigger are
    predictable.
  """
  vocab_size = len(bigrams.marginal)
  draw_key, walk_key = jax.random.split(key)
  # In one draw, because XLA takes a second to compile each draw on a CPU.
  uniform = jax.random.uniform(draw_key, (batch_size, 3 * vocab_size))
  order, output, first = jnp.split(uniform, 3, axis=1)
  log_marginal = jnp.log(jnp.asarray(bigrams.marginal, jnp.float32))[None]
  if fixed:
    most_frequent = fixed_triggers(bigrams, triggers)
    is_trigger = jnp.zeros(order.shape, bool).at[:, most_frequent].set(True)
  else:  # the K largest of log p + Gumbel are a draw without replacement
    rank = jnp.argsort(jnp.argsort(-(log_marginal + _gumbel(order))))
    is_trigger = rank < triggers  # [B, V]
  transitions = jnp.where(
    is_trigger[:, :, None],
    jax.nn.one_hot(_others(output), vocab_size),
    jnp.asarray(bigrams.table, jnp.float32)[None],
  )
  start = jnp.argmax(log_marginal + _gumbel(first), axis=1)
  paths = sample_paths(walk_key, transitions, start, seq_length + 1)
  tokens = paths[:, :-1]
  triggered = jnp.take_along_axis(is_trigger, tokens, axis=1)
  return Batch.from_sequences(paths, triggered & seen_before(tokens))


def _gumbel(uniform: Array) -> Array:
  return -jnp.log(-jnp.log(uniform))


def _others(uniform: Array) -> Array:  # [B, V] -> [B, V] int
  """For every token, a uniformly random other token."""
  vocab_size = uniform.shape[1]
  shift = 1 + jnp.floor(uniform * (vocab_size - 1)).astype(jnp.int32)
  return (jnp.arange(vocab_size)[None] + shift) % vocab_size
