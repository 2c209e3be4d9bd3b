"""Eigenvalues and singular values of circuits, on the host.

Other modules of this room make [K, K] matrices on the device. LAPACK decomposes
them here, on the CPU and in float64: the matrices are not symmetric, and no
accelerator solves the general eigenvalue problem.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment


def eigenvalues(matrices: ArrayLike) -> np.ndarray:
  """Complex eigenvalues of real matrices [..., K, K], largest modulus first.

  A matrix that contains nan (a pair of heads that cannot compose) has
  eigenvalues nan.
  """
  real = np.asarray(matrices, np.float64)
  present = ~np.any(np.isnan(real), axis=(-1, -2))
  values = np.full(real.shape[:-1], np.nan, complex)
  values[present] = np.linalg.eigvals(real[present])
  order = np.argsort(-np.abs(values), axis=-1, kind="stable")
  return np.take_along_axis(values, order, axis=-1)


def singular_values(matrices: ArrayLike) -> np.ndarray:
  """Singular values of matrices [..., K, K], largest first."""
  real = np.asarray(matrices, np.float64)
  return np.linalg.svd(real, compute_uv=False)


def eigenvalue_score(values: np.ndarray) -> np.ndarray:
  """Re sum(lambda) / sum |lambda| over the last axis, in [-1, 1].

  1 if every eigenvalue is real and positive: the circuit maps tokens to
  themselves (Elhage et al. 2021, "copying"). 0 for a zero matrix. Null: mean
  0 for random weights.
  """
  total = np.sum(np.abs(values), axis=-1)
  return np.sum(values.real, axis=-1) / np.where(total > 0, total, 1)


def effective_rank(values: np.ndarray) -> np.ndarray:
  """Effective number of singular directions of a circuit, over the last axis.

  The exponential of the entropy of the singular values, scaled to sum to 1
  (Roy and Vetterli 2007, "The effective rank", EUSIPCO): 1 if one singular
  value is not zero, K if all are equal, 0 for a zero matrix.
  """
  total = np.sum(values, axis=-1, keepdims=True)
  share = values / np.where(total > 0, total, 1)
  logs = np.log(np.where(share > 0, share, 1))
  return np.where(total[..., 0] > 0, np.exp(-np.sum(share * logs, axis=-1)), 0)


def track_eigenvalues(values: np.ndarray) -> np.ndarray:
  """Reorders eigenvalues [N, K] so that each column is a continuous path.

  Successive rows are matched so that the sum of the distances moved in the
  complex plane is smallest (optimal assignment: Kuhn 1955). Where eigenvalues
  move further than they lie apart the matching is a guess, which only more
  frequent measurements resolve.
  """
  paths = values.copy()
  for before, after in zip(paths[:-1], paths[1:]):
    moved = np.abs(before[:, None] - after[None, :])
    after[:] = after[linear_sum_assignment(moved)[1]]
  return paths
