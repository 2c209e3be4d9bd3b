"""The shortcut control: [r ; r] with one period, solvable without induction."""

import jax
import jax.numpy as jnp

from induction_jax.types import Batch, Key


def sample_fixed_offset(
  key: Key, batch_size: int, vocab_size: int, seq_length: int
) -> Batch:
  """Draws T / 2 independent uniform tokens and repeats them.

  A head that attends T / 2 - 1 back solves it with no induction head: accuracy
  on this task must not be reported as induction.

  Args:
    key: a typed key.
    batch_size: B.
    vocab_size: V.
    seq_length: T, even.

  Returns:
    A Batch; every target that lies one period after an earlier token counts as
    predictable, from t = T / 2 - 1 on.
  """
  period = seq_length // 2
  half = jax.random.randint(key, (batch_size, period), 0, vocab_size)
  tokens = jnp.concatenate([half, half, half[:, :1]], axis=1)  # [B, T + 1]
  predictable = jnp.arange(seq_length) >= period - 1
  return Batch(
    tokens=tokens[:, :-1],
    targets=tokens[:, 1:],
    predictable=jnp.tile(predictable, (batch_size, 1)),
  )
