"""Exact mode: the dense matrix and all of its eigenvalues, for small networks.

Returns what Lanczos, quadrature and estimate_sizes return, without their
errors.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from induction_jax.spectra.density import Quadrature
from induction_jax.spectra.eigenpairs import (
  ROUNDING_UNITS,
  Eigenpairs,
  Spectrum,
  check_ks,
)
from induction_jax.spectra.operators import Operator
from induction_jax.spectra.trace import Estimate, Sizes
from induction_jax.types import Array, PyTree

# The matrix, its eigenvectors and the solver's workspace take about four times
# 4 P^2 bytes in float32: 1.6 GB at this many parameters, and minutes of eigh.
MAX_PARAMETERS = 10_000
# The largest asymmetry, relative in the Frobenius norm, put down to rounding.
MAX_ASYMMETRY = 1e-2


def dense(operator: Operator, like: PyTree) -> Array:
  """The operator as a matrix, [P, P], by P products with unit vectors.

  Args:
    operator: linear, on pytrees like `like`.
    like: a pytree with the shapes and the one floating dtype of v; rows and
      columns are in the order of ravel_pytree.

  Raises:
    ValueError: if P is above MAX_PARAMETERS.
  """
  flat, unravel = ravel_pytree(like)
  if flat.size > MAX_PARAMETERS:
    raise ValueError(
      f"a dense matrix is for at most {MAX_PARAMETERS} parameters, got "
      f"{flat.size}: use lanczos, or restrict it to a block"
    )

  def column(i: Array) -> Array:
    unit = jnp.zeros_like(flat).at[i].set(1)
    return ravel_pytree(operator(unravel(unit)))[0]

  return jax.lax.map(column, jnp.arange(flat.size)).T


def exact_spectrum(
  operator: Operator, like: PyTree, *, k_top: int, k_bottom: int
) -> tuple[Spectrum, Array]:
  """What lanczos returns, and every eigenvalue, from the dense matrix.

  Every copy of a repeated eigenvalue is included. The eigenpairs are those of
  the symmetric part of the matrix; their residuals are computed with the matrix
  itself, and so are at the level of rounding if it is symmetric. All pairs are
  converged, unless the matrix is not finite, or its asymmetry exceeds
  MAX_ASYMMETRY: then none is.

  Args:
    operator: symmetric, on pytrees like `like`.
    like: a pytree with the shapes and the one floating dtype of v.
    k_top: pairs wanted at the upper end.
    k_bottom: pairs wanted at the lower end.

  Returns:
    A Spectrum, with P products, and all eigenvalues, [P] ascending.

  Raises:
    ValueError: if both ks are 0, one is negative or above P, or P is above
      MAX_PARAMETERS.
  """
  flat, unravel = ravel_pytree(like)
  size = flat.size
  check_ks(size, k_top, k_bottom)
  matrix = dense(operator, like)
  values, vectors = jnp.linalg.eigh((matrix + matrix.T) / 2)
  gap = jnp.linalg.norm(matrix - matrix.T)
  symmetric = gap <= MAX_ASYMMETRY * jnp.linalg.norm(matrix)  # false for nan
  epsilon = jnp.finfo(values.dtype).eps
  floor = ROUNDING_UNITS * epsilon * jnp.max(jnp.abs(values))

  def pairs(which: np.ndarray) -> Eigenpairs:
    v, w = vectors[:, which], values[which]  # [P, k], [k]
    residual = jnp.dot(matrix, v, precision="highest") - w[None] * v
    residuals = jnp.linalg.norm(residual, axis=0) + floor
    return Eigenpairs(
      values=w,
      vectors=jax.vmap(unravel)(v.T),
      residuals=residuals,
      converged=jnp.isfinite(residuals) & symmetric,
    )

  spectrum = Spectrum(
    top=pairs(np.arange(size)[::-1][:k_top]),
    bottom=pairs(np.arange(k_bottom)),
    products=jnp.asarray(size, jnp.int32),
  )
  return spectrum, values


def exact_quadrature(values: Array) -> Quadrature:
  """All eigenvalues [P], ascending, in the form of a Quadrature.

  Density and counts follow as they do from probe vectors. The one exact rule
  is repeated, so that standard errors over probe vectors are zero instead of
  undefined.
  """
  size = values.shape[0]
  weights = jnp.full_like(values, 1 / size)
  twice = jnp.stack([values, values]), jnp.stack([weights, weights])
  return Quadrature(*twice, jnp.asarray(size), jnp.asarray(0))


def exact_sizes(values: Array) -> Sizes:
  """Trace and Frobenius norm of a spectrum [P], with standard errors of 0."""
  square = jnp.sum(values**2)
  exact = (jnp.sum(values), square, jnp.sqrt(square))
  return Sizes(*(Estimate(x, jnp.zeros_like(x)) for x in exact))
