"""Next-token losses and accuracies: by kind of token, by place, by occurrence.

Losses are in nats.
"""

from collections.abc import Callable

import jax.numpy as jnp
import optax

from induction_jax.types import Array, Batch

Metrics = dict[str, Array]

# Places in a sequence, as fractions of it, between which the in-context
# learning score compares losses: around the 50th of 512 tokens and up to the
# last, as in Olsson et al. 2022, but stretches, since sequences here are few.
EARLY, LATE = (0.05, 0.15), (0.9, 1.0)


def token_losses(logits: Array, targets: Array) -> Array:  # [B, T]
  """Cross-entropy of each token in nats; logits [B, T, V]."""
  return optax.softmax_cross_entropy_with_integer_labels(logits, targets)


def make_weights(loss_tokens: str) -> Callable[[Batch], Array]:
  """Which tokens count in the training loss: 1.0 or 0.0 for each, [B, T]."""
  if loss_tokens == "all":
    return lambda batch: jnp.ones(batch.targets.shape)
  return lambda batch: batch.predictable.astype(jnp.float32)


def mean_over(values: Array, weights: Array) -> Array:
  """Mean of `values` weighted by `weights`; 0 where nothing counts."""
  total = jnp.sum(weights)
  return jnp.sum(values * weights) / jnp.where(total > 0, total, 1)


def evaluate(logits: Array, batch: Batch) -> Metrics:
  """Losses (nats) and accuracies, each a mean over the tokens it names.

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
  """Mean loss late in the sequence minus mean loss early in it.

  Olsson et al. 2022 (arXiv 2209.11895) take the 500th token minus the 50th, of
  512. Here `late` is the last tenth of the positions and `early` those from
  0.05 T to 0.15 T, all tokens of them. Negative: the context helps.

  Args:
    losses: [B, T].
  """

  def mean(stretch: tuple[float, float]) -> Array:
    first = int(stretch[0] * losses.shape[1])
    last = max(int(stretch[1] * losses.shape[1]), first + 1)
    return jnp.mean(losses[:, first:last])

  return mean(LATE) - mean(EARLY)


def occurrence_numbers(batch: Batch) -> Array:
  """For which time a repeated pair of tokens is there, [B, T] integers.

  A pair is (token, target). It is a repeated one if its target is predictable
  here or anywhere else in the sequence: in `repeats`, a token of the pattern
  and its successor. Its number is 1 + how often the same pair came before in
  the sequence; 1 is the first time, when nothing can predict it. Other pairs,
  fillers among them, have number 0.
  """
  same = _equal(batch.tokens) & _equal(batch.targets)  # [B, T, S]
  repeated = jnp.any(same & batch.predictable[:, None, :], axis=-1)
  before = jnp.tri(batch.tokens.shape[1], k=-1, dtype=bool)[None]
  return jnp.where(repeated, 1 + jnp.sum(same & before, axis=-1), 0)


def by_occurrence(losses: Array, batch: Batch, most: int) -> Array:
  """Mean loss of the first, second, ... occurrence of repeated pairs, [most].

  The last entry is that of occurrence `most` and all later ones; nan where
  there are none. Sequences with many occurrences have short patterns, so the
  sequences change along the axis.
  """
  numbers = jnp.minimum(occurrence_numbers(batch), most)
  which = (
    numbers[None] == jnp.arange(1, most + 1)[:, None, None]
  )  # [most, B, T]
  count = jnp.sum(which, axis=(1, 2))
  total = jnp.sum(jnp.where(which, losses[None], 0), axis=(1, 2))
  return jnp.where(count > 0, total / count, jnp.nan)


def _equal(tokens: Array) -> Array:  # [B, T] -> [B, T, S] bool
  return tokens[:, :, None] == tokens[:, None, :]
