"""Control for a positional shortcut: [r ; r], solvable without induction."""

import jax
import jax.numpy as jnp

from induction_jax.config import TaskConfig
from induction_jax.types import Batch, Key, Sampler


def make_fixed_offset(config: TaskConfig, batch_size: int) -> Sampler:
  """The sampler of the task `fixed_offset`."""
  return lambda key: sample_fixed_offset(
    key, batch_size, config.vocab_size, config.seq_length
  )


def sample_fixed_offset(
  key: Key, batch_size: int, vocab_size: int, seq_length: int
) -> Batch:
  """Draws T / 2 independent uniform tokens and repeats them.

  A head that attends T / 2 - 1 positions back solves the task without an
  induction head, so accuracy on it must not be reported as induction.

  Args:
    key: a typed key.
    batch_size: B.
    vocab_size: V.
    seq_length: T, even.

  Returns:
    A Batch; targets from position T / 2 on, which repeat an earlier token, are
    predictable.
  """
  period = seq_length // 2
  half = jax.random.randint(key, (batch_size, period), 0, vocab_size)
  sequences = jnp.concatenate([half, half, half[:, :1]], axis=1)  # [B, T + 1]
  predictable = jnp.arange(seq_length) >= period - 1
  return Batch.from_sequences(sequences, jnp.tile(predictable, (batch_size, 1)))
