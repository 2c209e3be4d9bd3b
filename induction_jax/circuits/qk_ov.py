"""QK and OV circuits of a head: what it attends to, and what it then writes.

  QK    W_Q W_K^T of the head alone, [D, D]; through the embeddings
        W_E W_Q W_K^T W_E^T, [V, V], from the query's token to the scores of
        the keys' tokens.
  OV    W_V W_O of the head alone, [D, D]; through the embeddings
        W_E W_V W_O W_U, [V, V], from the token attended to to the logits that
        it raises.

All have rank at most K, and none is formed. The device makes [K, K] matrices
with the same non-zero eigenvalues or singular values; spectrum.py decomposes
them.

The QK circuits are those of token content. Positions that are added to the
residual or to queries and keys are left out; rotary positions enter at offset
0, or at another after `turn_queries`. Smeared keys only scale them, which does
not change their scores.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from induction_jax.circuits.weights import CircuitWeights
from induction_jax.devices.lapack import one_at_a_time
from induction_jax.types import Array

ROWS = 1024  # of a [V, V] circuit, held in memory at a time


@jax.default_matmul_precision("highest")
def matching_matrices(weights: CircuitWeights) -> Array:  # [L, H, K, K]
  """Matrices with the non-zero eigenvalues of W_E W_Q W_K^T W_E^T, [V, V].

  Positive eigenvalues: tokens attend to copies of themselves. Cost: V D^2
  once, then D^2 K for each head.
  """
  gram = weights.w_e.T @ weights.w_e  # [D, D]
  query = jnp.einsum("de,lhek->lhdk", gram, weights.w_q)
  return jnp.einsum("lhdk,lhdj->lhkj", weights.w_k, query)


@jax.default_matmul_precision("highest")
def qk_matrices(weights: CircuitWeights) -> Array:  # [L, H, K, K]
  """Matrices with the non-zero eigenvalues of W_Q W_K^T, [D, D].

  Positive eigenvalues: positions attend to residuals like their own. The
  eigenvalues do not depend on the basis of the residual stream.
  """
  return jnp.einsum("lhdk,lhdj->lhkj", weights.w_k, weights.w_q)


@jax.default_matmul_precision("highest")
def copying_matrices(weights: CircuitWeights) -> Array:  # [L, H, K, K]
  """Matrices with the non-zero eigenvalues of W_E W_V W_O W_U, [V, V].

  Positive eigenvalues: attending to a token raises its own logit. Cost: V D^2
  once, then D^2 K for each head.
  """
  residual = weights.w_u @ weights.w_e  # [D, D]
  write = jnp.einsum("lhkd,de->lhke", weights.w_o, residual)
  return jnp.einsum("lhke,lhej->lhkj", write, weights.w_v)


@jax.default_matmul_precision("highest")
def ov_matrices(weights: CircuitWeights) -> Array:  # [L, H, K, K]
  """Matrices with the non-zero eigenvalues of W_V W_O, [D, D].

  Positive eigenvalues: the head adds to the residual what it reads there. The
  eigenvalues do not depend on the basis of the residual stream.
  """
  return weights.w_o @ weights.w_v


def matched_fraction(weights: CircuitWeights, k: int) -> Array:  # [L, H]
  """Share of query tokens whose own key is among their k highest-scored keys.

  Null: k / V, exact for random circuits. Ties count against the token. Cost:
  V^2 K for each head.
  """
  w_e = weights.w_e
  return _own_token_fraction(w_e, weights.w_q, weights.w_k, w_e, k)


def copied_fraction(weights: CircuitWeights, k: int) -> Array:  # [L, H]
  """Share of tokens whose own logit is among the k that they raise most.

  It complements the copying score, a ratio of sums in which a few large
  positive eigenvalues may stand for few tokens (Wang et al. 2022, arXiv
  2211.00593, count names in the top 5 in this way). Null: k / V, exact for
  random circuits. Ties count against the token. Cost: V^2 K for each head.
  """
  write = jnp.swapaxes(weights.w_o, -1, -2)
  return _own_token_fraction(weights.w_e, weights.w_v, write, weights.w_u.T, k)


@jax.default_matmul_precision("highest")
def _own_token_fraction(
  embed: Array, left: Array, right: Array, unembed: Array, k: int
) -> Array:
  """Rows of embed left right^T unembed^T with the diagonal in their top k.

  A row counts if fewer than k other entries are at least as high as its
  diagonal entry, so a circuit that does not tell tokens apart scores 0. Random
  circuits score k / V in the mean, since their columns are exchangeable.

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


_upper = one_at_a_time(lambda matrix: jnp.linalg.qr(matrix, mode="r"))
