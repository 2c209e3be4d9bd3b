"""What the loss pays when one head is silenced."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from induction_jax.types import Array, Params


class AblationCost(NamedTuple):
  """Rise of a mean token loss (nats) when a head writes nothing."""

  mean: Array  # [L, H]
  standard_error: Array  # [L, H], over sequences


def ablate_head(params: Params, layer: Array, head: Array) -> Params:
  """Parameters with one head's output set to zero."""
  return params | {"w_o": params["w_o"].at[layer, head].set(0)}


def ablation_costs(
  losses: Callable[[Params], Array], params: Params, weights: Array
) -> AblationCost:
  """Zero-ablates every head in turn.

  Args:
    losses: params -> token losses [B, T].
    params: the model's parameters.
    weights: [B, T], which tokens count.

  Returns:
    Mean rise of the loss over the tokens that count, all sequences together,
    and its standard error over sequences (ratio estimator: sequences differ
    in how many tokens count).
  """
  n_layers, n_heads = params["w_o"].shape[:2]
  intact = losses(params)
  total = jnp.maximum(jnp.sum(weights), 1)
  sequences = weights.shape[0]

  def cost(index: Array) -> tuple[Array, Array]:
    ablated = ablate_head(params, index // n_heads, index % n_heads)
    rise = losses(ablated) - intact
    mean = jnp.sum(rise * weights) / total
    deviation = jnp.sum((rise - mean) * weights, axis=1)  # [B]
    variance = jnp.sum(deviation**2) * sequences / max(sequences - 1, 1)
    return mean, jnp.sqrt(variance) / total

  mean, error = jax.lax.map(cost, jnp.arange(n_layers * n_heads))
  shape = (n_layers, n_heads)
  return AblationCost(mean.reshape(shape), error.reshape(shape))
