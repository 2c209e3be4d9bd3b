"""How later heads read what earlier heads write.

Arrays of pairs are [L, H, L, H]: the reading head (layer, head), then the
writing head; nan unless the writer's layer comes first. W_QK = W_Q W_K^T and
W_OV = W_V W_O are [D, D] of rank K and never formed.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from induction_jax.circuits.weights import CircuitWeights
from induction_jax.types import Array


class Composition(NamedTuple):
  """Frobenius composition, [L, H, L, H] (Elhage et al. 2021).

  Each is the norm of a product over the product of the norms: of the reader's
  matrix times what the writer puts into its query, key or value. Null for
  independent random circuits: 1 / sqrt(D) in root mean square. A head of zeros
  composes with none. (The values first published for this measure were
  computed wrongly, by the authors' erratum; they are no reference.)
  """

  q: Array  # || W_OV^writer W_QK^reader ||
  k: Array  # || W_QK^reader (W_OV^writer)^T ||
  v: Array  # || W_OV^writer W_OV^reader ||


@jax.default_matmul_precision("highest")
def composition(weights: CircuitWeights) -> Composition:
  """Q-, K- and V-composition of every pair of heads in different layers.

  || A B ||_F with A = a1 a2^T, B = b1 b2^T needs only [K, K] products:
  tr(M^T (a1^T a1) M (b2^T b2)) with M = a2^T b1.
  """
  w_o = jnp.swapaxes(weights.w_o, -1, -2)  # [L, H, D, K]
  w_q, w_k, w_v = weights.w_q, weights.w_k, weights.w_v
  ov_norm = _norm(w_v, w_o)  # [L, H]
  qk_norm = _norm(w_q, w_k)

  def ratio(
    far: Array, near: Array, out: Array, writer: Array, reader_norm: Array
  ) -> Array:
    # The reader's `near` meets the writer's `writer`; `far` and `out` are the
    # outer factors.
    middle = jnp.einsum("lhdk,mgdj->lhmgkj", near, writer)
    square = jnp.einsum(
      "lhmgkj,lhkp,lhmgpi,mgij->lhmg",
      middle,
      _gram(far),
      middle,
      _gram(out),
      optimize=True,
    )
    norms = reader_norm[:, :, None, None] * ov_norm[None, None]
    norms = jnp.where(norms > 0, norms, 1)
    # Rounding may leave the square of a zero product below zero.
    return _earlier_writers(jnp.sqrt(jnp.maximum(square, 0)) / norms)

  return Composition(
    q=ratio(w_k, w_q, w_v, w_o, qk_norm),
    k=ratio(w_q, w_k, w_v, w_o, qk_norm),
    v=ratio(w_o, w_v, w_v, w_o, ov_norm),
  )


@jax.default_matmul_precision("highest")
def k_composed_matrices(weights: CircuitWeights) -> Array:
  """Matching through K-composition, [L, H, L, H, K, K].

  Each has the non-zero eigenvalues of W_E W_QK^reader (W_OV^writer)^T W_E^T:
  positive where the current token looks for keys whose previous token it
  equals, if the writer is a previous-token head. nan unless the writer's
  layer comes first.
  """
  gram = weights.w_e.T @ weights.w_e  # [D, D]
  query = jnp.einsum("de,lhek->lhdk", gram, weights.w_q)
  read = jnp.einsum("lhdk,mgjd->lhmgkj", weights.w_k, weights.w_o)
  embed = jnp.einsum("mgdj,lhdk->mglhjk", weights.w_v, query)
  product = jnp.einsum("lhmgkj,mglhjp->lhmgkp", read, embed)
  return _earlier_writers(product)


@jax.default_matmul_precision("highest")
def virtual_copying_matrices(weights: CircuitWeights) -> Array:
  """Copying by virtual heads, [L, H, L, H, K, K].

  V-composition makes of writer and reader one more head, which attends with
  the product of their patterns and writes W_OV^writer W_OV^reader (Elhage et
  al. 2021). Each matrix has the non-zero eigenvalues of
  W_E W_OV^writer W_OV^reader W_U; nan unless the writer's layer comes first.
  """
  residual = weights.w_u @ weights.w_e  # [D, D]
  write = jnp.einsum("lhkd,de->lhke", weights.w_o, residual)
  through = jnp.einsum("mgjd,lhdk->lhmgjk", weights.w_o, weights.w_v)
  around = jnp.einsum("lhke,mgej->lhmgkj", write, weights.w_v)
  product = jnp.einsum("lhmgkj,lhmgjp->lhmgkp", around, through)
  return _earlier_writers(product)


def _gram(factor: Array) -> Array:  # [L, H, D, K] -> [L, H, K, K]
  return jnp.einsum("lhdk,lhdj->lhkj", factor, factor)


def _norm(a: Array, b: Array) -> Array:  # [L, H, D, K] -> [L, H]
  """|| a b^T ||_F = sqrt(tr((a^T a) (b^T b)))."""
  return jnp.sqrt(jnp.einsum("lhkj,lhjk->lh", _gram(a), _gram(b)))


def _earlier_writers(pairs: Array) -> Array:  # [L, H, L, H, ...]
  n_layers = pairs.shape[0]
  earlier = jnp.tri(n_layers, k=-1, dtype=bool)  # [reader, writer]
  shape = (n_layers, 1, n_layers, 1) + (1,) * (pairs.ndim - 4)
  return jnp.where(earlier.reshape(shape), pairs, jnp.nan)
