"""Next-token losses and accuracies: by token type, position and occurrence.

Losses are in nats.
"""

from collections.abc import Callable

import jax.numpy as jnp
import optax

from induction_jax.types import Array, Batch

Metrics = dict[str, Array]

# The in-context learning score compares the losses in these intervals of the
# sequence, as fractions of its length. Olsson et al. 2022 compare the 50th and
# the 500th of 512 tokens; intervals are less noisy on few sequences.
EARLY, LATE = (0.05, 0.15), (0.9, 1.0)


def token_losses(logits: Array, targets: Array) -> Array:  # [B, T]
  """Cross-entropy of each token in nats; logits [B, T, V]."""
  return optax.softmax_cross_entropy_with_integer_labels(logits, targets)


def make_weights(loss_tokens: str) -> Callable[[Batch], Array]:
  """Weights of tokens in the training loss, batch -> [B, T], each 1.0 or 0.0.

  Args:
    loss_tokens: "all", or "predictable" for predictable tokens only.
  """
  if loss_tokens == "all":
    return lambda batch: jnp.ones(batch.targets.shape)
  return lambda batch: batch.predictable.astype(jnp.float32)


def mean_over(values: Array, weights: Array) -> Array:
  """Mean of `values` weighted by `weights`; 0 if all weights are 0."""
  total = jnp.sum(weights)
  return jnp.sum(values * weights) / jnp.where(total > 0, total, 1)


def evaluate(logits: Array, batch: Batch) -> Metrics:
  """Mean losses (nats) and accuracies of predictable tokens and of the rest.

  Returns:
    Scalars `pattern_loss`, `pattern_accuracy` over predictable tokens and
    `random_loss`, `random_accuracy` over the rest.
  """
  losses = token_losses(logits, batch.targets)
  hits = (jnp.argmax(logits, axis=-1) == batch.targets).astype(losses.dtype)
  pattern = batch.predictable.astype(losses.dtype)
  return {
    "pattern_loss": mean_over(losses, pattern),
    "pattern_accuracy": mean_over(hits, pattern),
    "random_loss": mean_over(losses, 1 - pattern),
    "random_accuracy": mean_over(hits, 1 - pattern),
  }


def in_context_score(losses: Array) -> Array:
  """In-context learning score: mean loss late minus mean loss early.

  Late are the positions from 0.9 T, early those from 0.05 T to 0.15 T. A
  negative score means that context helps. Olsson et al. 2022 (arXiv 2209.11895)
  define it as the loss of the 500th token minus the loss of the 50th, of 512.

  Args:
    losses: [B, T].
  """

  def mean(interval: tuple[float, float]) -> Array:
    first = int(interval[0] * losses.shape[1])
    last = max(int(interval[1] * losses.shape[1]), first + 1)
    return jnp.mean(losses[:, first:last])

  return mean(LATE) - mean(EARLY)


def occurrence_numbers(batch: Batch) -> Array:
  """Numbers the occurrences of each repeated pair of tokens, [B, T].

  A pair is (token, target). It is repeated if its target is predictable at any
  of its occurrences in the sequence; in `repeats`, these are the pairs within
  the pattern. The first occurrence of a repeated pair, which is unpredictable,
  has number 1, the second number 2, and so on. Other pairs have number 0.
  """
  same = _equal(batch.tokens) & _equal(batch.targets)  # [B, T, S]
  repeated = jnp.any(same & batch.predictable[:, None, :], axis=-1)
  before = jnp.tri(batch.tokens.shape[1], k=-1, dtype=bool)[None]
  return jnp.where(repeated, 1 + jnp.sum(same & before, axis=-1), 0)


def by_occurrence(losses: Array, batch: Batch, most: int) -> Array:
  """Mean loss of the first, second, ... occurrence of repeated pairs.

  Sequences with many occurrences have short patterns, so the means are over
  different sets of sequences.

  Args:
    losses: [B, T].
    batch: the tokens and targets.
    most: number of entries; the last is the mean over occurrence `most` and all
      later ones.

  Returns:
    [most]; nan where there are no such occurrences.
  """
  numbers = jnp.minimum(occurrence_numbers(batch), most)
  each = jnp.arange(1, most + 1)[:, None, None]
  which = numbers[None] == each  # [most, B, T]
  count = jnp.sum(which, axis=(1, 2))
  total = jnp.sum(jnp.where(which, losses[None], 0), axis=(1, 2))
  return jnp.where(count > 0, total / count, jnp.nan)


def _equal(tokens: Array) -> Array:  # [B, T] -> [B, T, S] bool
  return tokens[:, :, None] == tokens[:, None, :]
