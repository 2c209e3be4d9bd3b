"""Whether a composition is more than chance: p-values, and many of them.

On the host: draws and counts.
"""

import functools

import numpy as np

# Of a sampled null, numbers held at once: enough for numpy, few for a cache.
NULL_SIZE = 2**18


@functools.cache
def random_overlaps(n_samples: int, d_model: int, d_head: int) -> np.ndarray:
  """Squared overlaps of two random K-dimensional subspaces of R^D.

  Entry (i, j) of a sample is (u_i . v_j)^2 for orthonormal bases u and v, one
  of them turned by a Haar rotation: the squares of a K x K corner of a random
  orthogonal matrix. Their mean is 1 / D. The same draws in every run.

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
  """One-sided p-values of compositions, [..., L, H, L, H]; nan as they are.

  The null turns what the writer writes by a Haar rotation of the residual
  stream: both circuits keep their singular values s and t, only how they lie
  to each other is random. Then the squared ratio is
  sum_ij s_i^2 t_j^2 (u_i . v_j)^2 / (sum s^2 sum t^2). Circuits of low rank
  spread widely around 1 / sqrt(D), which Gaussian ones would not show.

  Args:
    ratios: the compositions measured, as in Composition; of several kinds, on
      leading axes, where these have the same readers.
    reader_singular: singular values [L, H, K] of W_QK for Q- and
      K-composition, of W_OV for V-composition.
    writer_singular: [L, H, K], of W_OV.
    overlaps: [N, K, K], from random_overlaps.

  Returns:
    (1 + #{null >= ratio}) / (1 + N), valid for any N (Davison and Hinkley
    1997, section 4.2). Cost: N L H K (K + L H) operations, about NULL_SIZE
    numbers at a time.
  """
  readers, writers = _shares(reader_singular), _shares(writer_singular)
  squares = ratios.reshape(-1, 1, len(readers), len(writers)) ** 2
  counts = np.zeros(len(squares) * len(readers) * len(writers), int)
  samples = max(1, NULL_SIZE // max(readers.size, len(readers) ** 2))
  for first in range(0, len(overlaps), samples):
    # [n, L H, L H]: what each reader gets from each writer.
    null = readers @ overlaps[first : first + samples] @ writers.T
    counts += np.sum(null >= squares, axis=1).reshape(counts.shape)
  found = (1 + counts) / (1 + len(overlaps))
  return np.where(np.isnan(ratios), np.nan, found.reshape(ratios.shape))


def p_values(values: np.ndarray, null: np.ndarray) -> np.ndarray:
  """(1 + #{null >= value}) / (1 + N), one-sided; nan as they are.

  Args:
    values: any shape.
    null: [N], sampled.
  """
  reached = null.size - np.searchsorted(np.sort(null), values)
  return np.where(np.isnan(values), np.nan, (1 + reached) / (1 + null.size))


def _shares(singular: np.ndarray) -> np.ndarray:  # [L, H, K] -> [L H, K]
  squares = singular.reshape(-1, singular.shape[-1]) ** 2
  total = np.sum(squares, axis=-1, keepdims=True)
  return squares / np.where(total > 0, total, 1)
