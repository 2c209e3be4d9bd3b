"""What the circuit measures share: folded weights and eigenvalue scores.

A circuit is a product of weights, read without data. The norm before a layer
is folded into the matrices that read it: its scale multiplies their rows and,
for layernorm, centring projects their columns; the data-dependent 1 / sigma is
dropped (Elhage et al. 2021). So are biases, of norms and of heads, where a
model has any: what they add to a circuit depends on one of its two tokens, or
on none, and so belongs to no map of tokens to tokens. Row-vector convention:
x @ W.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from numpy.typing import ArrayLike

from induction_jax.types import Array, Key, Params


class CircuitWeights(NamedTuple):
  """The attention weights with norms folded in."""

  w_e: Array  # [V, D]
  w_q: Array  # [L, H, D, K]
  w_k: Array  # [L, H, D, K]
  w_v: Array  # [L, H, D, K]
  w_o: Array  # [L, H, K, D]
  w_u: Array  # [D, V]


def fold_norms(params: Params, norm: str) -> CircuitWeights:
  """Folds scale and centring of every norm into the weights that read it.

  Args:
    params: the model's parameters.
    norm: `layernorm`, `rmsnorm` or `none`.
  """

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


def random_weights(key: Key, like: CircuitWeights) -> CircuitWeights:
  """Gaussian weights of the same shapes: the null of every circuit score."""
  flat, unravel = ravel_pytree(like)
  return unravel(jax.random.normal(key, flat.shape, flat.dtype))


def eigenvalues(matrices: ArrayLike) -> np.ndarray:
  """Complex eigenvalues of real matrices [..., K, K], largest modulus first.

  On the host and in float64: the matrices are not symmetric, and only LAPACK
  on the CPU has the general eigenvalue problem. A matrix of nan (no such pair
  of heads) has eigenvalues nan.
  """
  real = np.asarray(matrices, np.float64)
  missing = np.any(np.isnan(real), axis=(-1, -2), keepdims=True)
  real = np.where(missing, 0, real)
  values = np.linalg.eigvals(real).astype(complex)
  values = np.where(missing[..., 0], np.nan, values)
  order = np.argsort(-np.abs(values), axis=-1, kind="stable")
  return np.take_along_axis(values, order, axis=-1)


def eigenvalue_score(values: np.ndarray) -> np.ndarray:
  """Re sum(lambda) / sum |lambda| over the last axis, in [-1, 1].

  1 if every eigenvalue is real and positive: the circuit maps tokens to
  themselves (Elhage et al. 2021, "copying"). Random weights give mean 0. A
  zero matrix gives 0.
  """
  total = np.sum(np.abs(values), axis=-1)
  return np.sum(values.real, axis=-1) / np.where(total > 0, total, 1)
