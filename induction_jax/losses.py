"""Next-token losses and accuracies, apart on predictable and other tokens."""

from collections.abc import Callable

import jax.numpy as jnp
import optax

from induction_jax.types import Array, Batch

Metrics = dict[str, Array]


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
