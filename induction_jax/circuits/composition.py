"""How strongly later heads read what earlier heads write, and by chance.

Arrays of pairs are [L, H, L, H]: the reading head's layer and index, then the
writing head's; nan unless the writer's layer comes first. W_QK = W_Q W_K^T and
W_OV = W_V W_O are [D, D] of rank at most K and never formed.

Compositions are computed on the device, their p-values on the host.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from induction_jax.circuits.weights import CircuitWeights
from induction_jax.types import Array

# Numbers of a sampled null held at once: enough for numpy to be efficient, few
# enough for a cache.
NULL_SIZE = 2**18


class Composition(NamedTuple):
  """Frobenius composition, [L, H, L, H] (Elhage et al. 2021).

  Each is the Frobenius norm of a product of two circuits, divided by the
  product of their norms: the reader's circuit and the writer's output, which
  enters the reader's query, key or value. A zero circuit has composition 0.
  Null: 1 / sqrt(D) in root mean square, exact for independent
  rotation-invariant circuits. (The values first published for this measure
  were computed wrongly, as the authors' erratum says; they are no reference.)
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
    # `near` is the reader's factor next to the writer's factor `writer`; `far`
    # and `out` are the outer factors of reader and writer.
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
    # Rounding may make the square of a zero product negative.
    return _earlier_writers(jnp.sqrt(jnp.maximum(square, 0)) / norms)

  return Composition(
    q=ratio(w_k, w_q, w_v, w_o, qk_norm),
    k=ratio(w_q, w_k, w_v, w_o, qk_norm),
    v=ratio(w_o, w_v, w_v, w_o, ov_norm),
  )


@jax.default_matmul_precision("highest")
def k_composed_matrices(weights: CircuitWeights) -> Array:
  """Matrices of token matching through K-composition, [L, H, L, H, K, K].

  Each has the non-zero eigenvalues of W_E W_QK^reader (W_OV^writer)^T W_E^T.
  They are positive if, with a previous-token head as the writer, the current
  token attends to keys whose previous token equals it.
  """
  gram = weights.w_e.T @ weights.w_e  # [D, D]
  query = jnp.einsum("de,lhek->lhdk", gram, weights.w_q)
  read = jnp.einsum("lhdk,mgjd->lhmgkj", weights.w_k, weights.w_o)
  embed = jnp.einsum("mgdj,lhdk->mglhjk", weights.w_v, query)
  product = jnp.einsum("lhmgkj,mglhjp->lhmgkp", read, embed)
  return _earlier_writers(product)


@jax.default_matmul_precision("highest")
def virtual_copying_matrices(weights: CircuitWeights) -> Array:
  """Matrices of copying by virtual heads, [L, H, L, H, K, K].

  V-composition turns writer and reader into one virtual head, which attends
  with the product of their patterns and writes W_OV^writer W_OV^reader (Elhage
  et al. 2021). Each matrix has the non-zero eigenvalues of
  W_E W_OV^writer W_OV^reader W_U.
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


# Significance, on the host.


@functools.cache
def random_overlaps(n_samples: int, d_model: int, d_head: int) -> np.ndarray:
  """Squared overlaps of two random K-dimensional subspaces of R^D.

  Entry (i, j) of a sample is (u_i . v_j)^2 for orthonormal bases u and v, one
  of them rotated by a Haar-distributed rotation: the squares of a K x K corner
  of a random orthogonal matrix. Their mean is 1 / D. The seed is fixed, so the
  draws are the same in every run.

  Returns:
    [N, K, K], float32. Cost: N QR factorisations of [D, K].
  """
  draw = np.random.default_rng(0)
  corners = np.empty((n_samples, d_head, d_head), np.float32)
  for corner in corners:
    basis = np.linalg.qr(draw.standard_normal((d_model, d_head)))[0]
    corner[:] = basis[:d_head] ** 2
  return corners


def composition_p_values(
  ratios: np.ndarray,
  reader_singular: np.ndarray,
  writer_singular: np.ndarray,
  overlaps: np.ndarray,
) -> np.ndarray:
  """One-sided p-values of compositions, [..., L, H, L, H]; nan stays nan.

  Under the null what the writer writes is rotated by a Haar-distributed
  rotation of the residual stream: both circuits keep their singular values s
  and t, and only their orientation to each other is random. The squared ratio
  is then sum_ij s_i^2 t_j^2 (u_i . v_j)^2 / (sum s^2 sum t^2). Circuits of low
  rank spread widely around 1 / sqrt(D), which Gaussian circuits would not show.

  Args:
    ratios: compositions, as in Composition; leading axes may hold several
      kinds that share readers.
    reader_singular: singular values [L, H, K] of W_QK for Q- and
      K-composition, of W_OV for V-composition.
    writer_singular: [L, H, K], singular values of W_OV.
    overlaps: [N, K, K], from random_overlaps.

  Returns:
    (1 + #{null >= ratio}) / (1 + N), valid for any N (Davison and Hinkley
    1997, section 4.2). Cost: N L H K (K + L H) operations, with about NULL_SIZE
    numbers in memory.
  """
  readers, writers = _shares(reader_singular), _shares(writer_singular)
  squares = ratios.reshape(-1, 1, len(readers), len(writers)) ** 2
  counts = np.zeros(len(squares) * len(readers) * len(writers), int)
  samples = max(1, NULL_SIZE // max(readers.size, len(readers) ** 2))
  for first in range(0, len(overlaps), samples):
    # Squared ratios of each reader and writer, [n, L H, L H].
    null = readers @ overlaps[first : first + samples] @ writers.T
    counts += np.sum(null >= squares, axis=1).reshape(counts.shape)
  found = (1 + counts) / (1 + len(overlaps))
  return np.where(np.isnan(ratios), np.nan, found.reshape(ratios.shape))


def p_values(values: np.ndarray, null: np.ndarray) -> np.ndarray:
  """(1 + #{null >= value}) / (1 + N), one-sided; nan stays nan.

  Args:
    values: any shape.
    null: [N], samples of the null distribution.
  """
  reached = null.size - np.searchsorted(np.sort(null), values)
  return np.where(np.isnan(values), np.nan, (1 + reached) / (1 + null.size))


def _shares(singular: np.ndarray) -> np.ndarray:  # [L, H, K] -> [L H, K]
  """Squared singular values, scaled to sum to 1."""
  squares = singular.reshape(-1, singular.shape[-1]) ** 2
  total = np.sum(squares, axis=-1, keepdims=True)
  return squares / np.where(total > 0, total, 1)
