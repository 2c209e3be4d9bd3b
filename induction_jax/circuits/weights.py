"""The weights of the circuits, with norms folded in.

A circuit is a product of weights, read without data. The norm before a layer is
folded into the matrices that read it: its scale multiplies their rows, and the
centring of a layernorm is projected out of their columns. The data-dependent
1 / sigma is dropped (Elhage et al. 2021, "A mathematical framework for
transformer circuits"). The biases of norms and heads, if a model has any, are
dropped as well: what they add to a circuit depends on at most one of its two
tokens, so it is no part of a map from tokens to tokens. Row vectors: x @ W.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from induction_jax.types import Array, Key, Params


class CircuitWeights(NamedTuple):
  """Attention, embedding and unembedding weights, with norms folded in."""

  w_e: Array  # [V, D]
  w_q: Array  # [L, H, D, K]
  w_k: Array  # [L, H, D, K]
  w_v: Array  # [L, H, D, K]
  w_o: Array  # [L, H, K, D]
  w_u: Array  # [D, V]


def fold_norms(params: Params, norm: str) -> CircuitWeights:
  """Folds the scale and centring of every norm into the weights that read it.

  Args:
    params: the model's parameters.
    norm: `layernorm`, `rmsnorm` or `none`.

  Raises:
    ValueError: if the weights do not have the shapes of CircuitWeights, as with
      grouped-query attention (fewer key and value heads than query heads),
      whose circuits are not defined here.
  """
  _check_shapes(params)

  def fold(weight: Array, scale: Array | None) -> Array:  # [..., D, X]
    if scale is not None:
      weight = scale[..., None] * weight
    if norm == "layernorm":
      weight = weight - jnp.mean(weight, axis=-2, keepdims=True)
    return weight

  scale = params.get("norm_scale")  # [L, D]
  head_scale = None if scale is None else scale[:, None]
  return CircuitWeights(
    w_e=params["w_e"],
    w_q=fold(params["w_q"], head_scale),
    w_k=fold(params["w_k"], head_scale),
    w_v=fold(params["w_v"], head_scale),
    w_o=params["w_o"],
    w_u=fold(params["w_u"], params.get("final_norm_scale")),
  )


def turn_queries(weights: CircuitWeights, rotation: Array) -> CircuitWeights:
  """Inserts a rotation [K, K] between W_Q and W_K^T.

  With rotary positions the score of a query at t and a key at s is
  x W_Q R_(t - s) W_K^T y^T. Unchanged weights are those at offset 0, since
  R_0 = 1; after inserting R_delta every QK score is the one at offset delta.
  """
  turned = jnp.matmul(weights.w_q, rotation[None, None], precision="highest")
  return weights._replace(w_q=turned)


def random_weights(key: Key, like: CircuitWeights) -> CircuitWeights:
  """Gaussian weights of the same shapes: the null of eigenvalue scores."""
  flat, unravel = ravel_pytree(like)
  return unravel(jax.random.normal(key, flat.shape, flat.dtype))


def _check_shapes(params: Params) -> None:
  n_layers, n_heads, d_model, d_head = params["w_q"].shape
  for name in ("w_k", "w_v"):
    heads = params[name].shape[1]
    if heads != n_heads:
      raise ValueError(
        "circuits are not defined for grouped-query attention: w_k and w_v "
        f"must have as many heads as w_q, {n_heads}, got {heads} in {name}"
      )
  vocab = params["w_e"].shape[0]
  qkv = (n_layers, n_heads, d_model, d_head)
  expected = {
    "w_e": (vocab, d_model),
    "w_k": qkv,
    "w_v": qkv,
    "w_o": (n_layers, n_heads, d_head, d_model),
    "w_u": (d_model, vocab),
  }
  for name, shape in expected.items():
    if params[name].shape != shape:
      raise ValueError(
        f"{name} must have shape {shape} beside w_q of {qkv}, got "
        f"{params[name].shape}"
      )
