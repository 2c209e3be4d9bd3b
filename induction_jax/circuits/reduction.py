"""What can be known of a [V, V] circuit of rank K without forming it.

On the device: [K, K] matrices with its singular values, and how often its
diagonal is among the highest entries of a row.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from induction_jax.circuits.weights import CircuitWeights
from induction_jax.devices.limits import sequential_on_cpu
from induction_jax.types import Array

ROWS = 1024  # of a [V, V] circuit, held in memory at a time


@jax.default_matmul_precision("highest")
def own_token_fraction(
  embed: Array, left: Array, right: Array, unembed: Array, k: int
) -> Array:
  """The share of rows of a circuit whose diagonal entry is in their top k.

  The circuit is embed @ left @ right^T @ unembed^T, [V, V]. A row counts if
  fewer than k other entries are at least as high as its diagonal entry, so a
  circuit that does not tell tokens apart scores 0. Random circuits score k / V
  in the mean, since their columns are exchangeable.

  Args:
    embed: [V, D].
    left: [L, H, D, K].
    right: [L, H, D, K].
    unembed: [V, D].
    k: from 1 to V.

  Returns:
    The share of such rows, [L, H]. Cost: 2 V^2 K operations for each head, and
    ROWS x V numbers of memory.
  """
  tokens = jnp.arange(embed.shape[0])

  def of_head(factors: tuple[Array, Array]) -> Array:
    read, write = embed @ factors[0], unembed @ factors[1]  # [V, K]

    def in_top_k(token: Array) -> Array:
      entries = write @ read[token]  # [V]
      return jnp.sum(entries >= entries[token]) <= k  # counts itself

    rows = min(ROWS, tokens.size)
    return jnp.mean(jax.lax.map(in_top_k, tokens, batch_size=rows))

  heads = left.shape[:2]
  flat = (x.reshape(-1, *x.shape[2:]) for x in (left, right))
  return jax.lax.map(of_head, tuple(flat)).reshape(heads)


class Triangles(NamedTuple):
  """[L, H, K, K] for each circuit, with its K singular values.

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
  """Matrices with the singular values of every circuit, by QR decompositions.

  With left = Q R and right = Q' R', left @ right^T has the singular values of
  R R'^T, [K, K]. Forming left^T left instead would square the condition number.
  Cost: V D^2 once, then D^2 K for each head.
  """
  # Up to orthonormal columns W_E is its triangle, at most [D, D].
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
  missing = x.shape[-1] - upper.shape[-2]  # rows, if N < K
  upper = jnp.pad(upper, [(0, 0), (0, missing), (0, 0)])
  return upper.reshape(*x.shape[:-2], *upper.shape[-2:])


_upper = sequential_on_cpu(lambda matrix: jnp.linalg.qr(matrix, mode="r"))
