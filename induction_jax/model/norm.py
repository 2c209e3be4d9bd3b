"""The norms before heads, MLP and unembedding."""

import jax
import jax.numpy as jnp

from induction_jax.config import ModelConfig
from induction_jax.model.interface import OWN_CONVENTION, Convention
from induction_jax.model.weights import add_bias, of_layer
from induction_jax.types import Array, Params


def normalise(
  config: ModelConfig,
  convention: Convention,
  weights: Params,
  name: str,
  layer: int | None,
  x: Array,  # [B, T, D]
) -> Array:
  """What a sublayer reads of the residual, in its shape.

  Args:
    config: says which norm, if any.
    convention: has its epsilon.
    weights: with the norm's scale and bias, if any.
    name: "norm" (before heads), "mlp_norm" or "final_norm".
    layer: None for the final norm.
    x: the residual.
  """
  if config.norm == "none":
    return x
  scale = of_layer(weights, f"{name}_scale", layer)
  x = _centre(config.norm, x)
  x = x * _inverse_size(x, convention.epsilon) * scale[None, None]
  return add_bias(x, of_layer(weights, f"{name}_bias", layer))


def inverse_sigma(
  norm: str, x: Array, epsilon: float = OWN_CONVENTION.epsilon
) -> Array:  # [..., D] -> [..., 1]
  """The number a norm multiplies a residual by; ones if it is "none".

  What is nonlinear in a norm: frozen, the norm is linear.
  """
  if norm == "none":
    return jnp.ones_like(x[..., :1])
  return _inverse_size(_centre(norm, x), epsilon)


def _centre(norm: str, x: Array) -> Array:
  if norm == "layernorm":
    x = x - x.mean(axis=-1, keepdims=True)
  return x


def _inverse_size(x: Array, epsilon: float) -> Array:  # [..., D] -> [..., 1]
  mean_square = jnp.mean(x**2, axis=-1, keepdims=True)
  return jax.lax.rsqrt(mean_square + epsilon)
