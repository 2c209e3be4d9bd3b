"""Means over tokens, with standard errors over sequences."""

from typing import NamedTuple

import jax.numpy as jnp

from induction_jax.types import Array


class Estimate(NamedTuple):
  """A mean over the tokens that count, all sequences together."""

  mean: Array
  standard_error: Array  # over sequences


def estimate_mean(values: Array, weights: Array) -> Estimate:
  """The mean of `values` [..., B, T] over the tokens that count.

  Args:
    values: one number a token.
    weights: [B, T], which tokens count.

  Returns:
    Mean and standard error, [...]. Tokens of one sequence are not
    independent, so the error is that over sequences, by the ratio estimator
    (Cochran 1977, chapter 6): sequences differ in how many tokens count. 0 of
    both where nothing counts.
  """
  sequences = weights.shape[0]
  weights = jnp.expand_dims(weights, tuple(range(values.ndim - 2)))
  total = jnp.maximum(jnp.sum(weights), 1)
  mean = jnp.sum(values * weights, axis=(-2, -1)) / total
  deviation = jnp.sum((values - mean[..., None, None]) * weights, axis=-1)
  variance = jnp.sum(deviation**2, axis=-1) * sequences / max(sequences - 1, 1)
  return Estimate(mean, jnp.sqrt(variance) / total)
