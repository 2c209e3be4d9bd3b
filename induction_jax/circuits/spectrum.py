"""The spectrum of a low-rank circuit, from K x K matrices alone.

A circuit A B^T has rank at most K, its factors being [N, K] with N = D for a
head alone and N = V through the embeddings. The device makes K x K matrices
with its non-zero eigenvalues or singular values; LAPACK takes them apart on the
host, in float64. No [V, V] or [D, D] matrix is ever decomposed.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment


def eigenvalues(matrices: ArrayLike) -> np.ndarray:
  """Complex eigenvalues of real matrices [..., K, K], largest modulus first.

  On the host and in float64: the matrices are not symmetric, and only LAPACK
  on the CPU has the general eigenvalue problem. A matrix of nan (no such pair
  of heads) has eigenvalues nan.
  """
  real = np.asarray(matrices, np.float64)
  there = ~np.any(np.isnan(real), axis=(-1, -2))
  values = np.full(real.shape[:-1], np.nan, complex)
  values[there] = np.linalg.eigvals(real[there])
  order = np.argsort(-np.abs(values), axis=-1, kind="stable")
  return np.take_along_axis(values, order, axis=-1)


def singular_values(matrices: ArrayLike) -> np.ndarray:
  """Singular values of [..., K, K], largest first, on the host in float64."""
  real = np.asarray(matrices, np.float64)
  return np.linalg.svd(real, compute_uv=False)


def eigenvalue_score(values: np.ndarray) -> np.ndarray:
  """Re sum(lambda) / sum |lambda| over the last axis, in [-1, 1].

  1 if every eigenvalue is real and positive: the circuit maps tokens to
  themselves (Elhage et al. 2021, "copying"). Random weights give mean 0. A
  zero matrix gives 0.
  """
  total = np.sum(np.abs(values), axis=-1)
  return np.sum(values.real, axis=-1) / np.where(total > 0, total, 1)


def effective_rank(values: np.ndarray) -> np.ndarray:
  """Number of directions that carry a circuit, over the last axis.

  The exponential of the entropy of the singular values, scaled to sum to 1:
  from 1, where one direction carries everything, to K, where all carry the
  same (Roy and Vetterli 2007, "The effective rank", EUSIPCO); 0 for a zero
  matrix.
  """
  total = np.sum(values, axis=-1, keepdims=True)
  share = values / np.where(total > 0, total, 1)
  logs = np.log(np.where(share > 0, share, 1))
  return np.where(total[..., 0] > 0, np.exp(-np.sum(share * logs, axis=-1)), 0)


def track_eigenvalues(values: np.ndarray) -> np.ndarray:
  """Reorders eigenvalues [N, K] so that each column is a continuous path.

  From one measurement to the next they are paired so that the distances moved
  in the complex plane are smallest in sum (optimal assignment: Kuhn 1955).
  Where eigenvalues move further than they lie apart the pairing is a guess:
  measure more often.
  """
  paths = values.copy()
  for before, after in zip(paths[:-1], paths[1:]):
    moved = np.abs(before[:, None] - after[None, :])
    after[:] = after[linear_sum_assignment(moved)[1]]
  return paths
