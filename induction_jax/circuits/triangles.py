"""Matrices with the singular values of every circuit, from QR decompositions.

With left = Q R and right = Q' R', left @ right^T has the singular values of
R R'^T, [K, K]. Forming left^T left instead would square the condition number.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from induction_jax.circuits.weights import CircuitWeights
from induction_jax.devices.lapack import one_at_a_time
from induction_jax.types import Array


class Triangles(NamedTuple):
  """By circuit, [L, H, K, K] with its K singular values.

  Attributes:
    ov: W_E W_V W_O W_U.
    qk: W_E W_Q W_K^T W_E^T.
    ov_alone: W_V W_O.
    qk_alone: W_Q W_K^T.
  """

  ov: Array
  qk: Array
  ov_alone: Array
  qk_alone: Array


@jax.default_matmul_precision("highest")
def triangles(weights: CircuitWeights) -> Triangles:
  """All of them, by QR. Cost: V D^2 once, then D^2 K for each head."""
  # Orthonormal columns aside, W_E is its triangle: at most [D, D].
  embed, unembed = _triangle(jnp.stack([weights.w_e, weights.w_u.T]))

  def through(triangle: Array, w: Array) -> Array:
    return jnp.einsum("rd,lhdk->lhrk", triangle, w)

  w_q, w_k, w_v = weights.w_q, weights.w_k, weights.w_v
  w_o = jnp.swapaxes(weights.w_o, -1, -2)
  sides = _triangle(
    jnp.stack(
      [
        *(through(embed, w_v), through(unembed, w_o)),
        *(through(embed, w_q), through(embed, w_k)),
        *(w_v, w_o),
        *(w_q, w_k),
      ]
    )
  )  # [8, L, H, K, K]
  left, right = sides[::2], jnp.swapaxes(sides[1::2], -1, -2)
  return Triangles(*(left @ right))


def _triangle(x: Array) -> Array:  # [..., N, K] -> [..., K, K]
  upper = jax.vmap(_upper)(x.reshape(-1, *x.shape[-2:]))
  missing = x.shape[-1] - upper.shape[-2]  # rows, where N < K
  upper = jnp.pad(upper, [(0, 0), (0, missing), (0, 0)])
  return upper.reshape(*x.shape[:-2], *upper.shape[-2:])


_upper = one_at_a_time(lambda matrix: jnp.linalg.qr(matrix, mode="r"))
