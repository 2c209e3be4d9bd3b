"""Eigenpairs, their residual bounds, and the directions they span.

A residual bound is an upper bound on ||A v - lambda v|| for a unit vector v. If
A is symmetric, some eigenvalue lies within it of lambda (Parlett 1998, theorem
4.5.1). Lanczos and the exact mode compute it for the operator as it was
evaluated, in floating point; `rounding_error` measures what the rounding of
the products adds, and `add_rounding` extends the bounds by it.

How far rounding moves a product depends on the network: from 2 to 6,000 units
of rounding of the spectral norm were seen, most where the weights are large
and the softmax cancels. No constant bounds that. So it is measured, as the
change of a product when every parameter is moved by one unit of rounding.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from induction_jax.spectra.krylov import normalise
from induction_jax.spectra.operators import Operator
from induction_jax.types import Array, Key, PyTree

# No residual is known better than this many units of rounding of the spectral
# norm: the rounding of Lanczos itself, on a well-conditioned operator.
ROUNDING_UNITS = 32
# Factor of safety of rounding_error. The error of a residual against float64
# was from 0.5 to 2 times the largest change measured, over trained and
# untrained networks and weights three times too large; one nudge differs from
# the next by up to five times.
SAFETY = 8.0
# Products that `dominant` takes.
POWER_STEPS = 6


class Eigenpairs(NamedTuple):
  """k eigenpairs at one end of the spectrum, the extreme one first."""

  values: Array  # [k], signed
  vectors: PyTree  # leaves [k, ...], orthonormal
  residuals: Array  # [k], bounds on ||A v - value v||
  converged: Array  # [k] bool


class Spectrum(NamedTuple):
  """Eigenpairs at both ends of the spectrum, and their cost."""

  top: Eigenpairs  # descending from the largest eigenvalue
  bottom: Eigenpairs  # ascending from the smallest eigenvalue
  products: Array  # number of products used, int32

  @property
  def norm(self) -> Array:
    """Spectral norm: the largest |eigenvalue|; needs pairs at both ends."""
    return jnp.maximum(self.top.values[0], -self.bottom.values[0])


def check_ks(size: int, k_top: int, k_bottom: int) -> None:
  """Raises ValueError unless each is from 0 to P, and not both are 0."""
  either_end = max(k_top, k_bottom)
  if min(k_top, k_bottom) < 0 or not 1 <= either_end <= size:
    raise ValueError(
      f"k_top and k_bottom must be from 0 to P={size}, and not both 0, got "
      f"k_top={k_top}, k_bottom={k_bottom}"
    )


# Directions. Vectors are pytrees; k orthonormal ones have a leading axis k on
# every leaf.


def alignment(vector: PyTree, eigenvectors: PyTree) -> Array:
  """Share of a vector's squared norm along each eigenvector.

  (v . u_i)^2 / ||v||^2, in [0, 1]; the sum over i is the share in their span.
  Null: 1 / P each, the mean over vectors of uniformly random direction.

  Args:
    vector: a pytree.
    eigenvectors: k orthonormal pytrees.

  Returns:
    [k]; nan if the vector is zero.
  """
  square_norm = sum(jnp.sum(x**2) for x in jax.tree.leaves(vector))
  lifted = jax.tree.map(lambda x: x[None], vector)
  return _inner_products(eigenvectors, lifted)[:, 0] ** 2 / square_norm


def overlap(a: PyTree, b: PyTree) -> Array:
  """Overlap of two k-dimensional subspaces: ||A B^T||_F^2 / k, in [0, 1].

  1 if they are equal, 0 if orthogonal (Gur-Ari, Roberts and Dyer 2018, arXiv
  1812.04754, eq. 4). Null: k / P, the mean over random subspaces.

  Args:
    a: k orthonormal pytrees.
    b: k orthonormal pytrees.
  """
  products = _inner_products(a, b)
  return jnp.sum(products**2) / products.shape[0]


def _inner_products(a: PyTree, b: PyTree) -> Array:  # [k_a, k_b]
  terms = jax.tree.map(
    lambda x, y: jnp.dot(
      x.reshape(x.shape[0], -1),
      y.reshape(y.shape[0], -1).T,
      precision="highest",
    ),
    a,
    b,
  )
  return jnp.sum(jnp.stack(jax.tree.leaves(terms)), axis=0)


# The rounding of products.


def rounding_error(
  vectors: PyTree,
  operator_at: Callable[[PyTree], Operator],
  params: PyTree,
  key: Key,
) -> Array:
  """What the rounding of products adds to a residual: an estimate, no proof.

  The largest change of a product when the parameters are nudged, over the
  vectors, times a factor of safety. Costs two products for each vector,
  compiled once however many vectors there are.

  Args:
    vectors: k pytrees, leaves [k, ...]: `extremes` of the operator's spectrum,
      since rounding acts most where curvature is large, or `dominant`.
    operator_at: params -> the operator.
    params: the parameters.
    key: for the nudge.
  """
  both = jax.tree.map(lambda *x: jnp.stack(x), params, _nudge(params, key))
  products = jax.lax.map(
    lambda params: jax.lax.map(operator_at(params), vectors), both
  )
  squares = jax.tree.map(
    lambda x: jnp.sum((x[0] - x[1]) ** 2, axis=range(1, x.ndim - 1)), products
  )  # leaves [k]
  return SAFETY * jnp.sqrt(jnp.max(sum(jax.tree.leaves(squares))))


def _nudge(params: PyTree, key: Key) -> PyTree:
  """Moves every parameter by one unit of rounding, up or down at random."""
  flat, unravel = ravel_pytree(params)
  sign = jax.random.rademacher(key, flat.shape, flat.dtype)
  return unravel(flat * (1 + jnp.finfo(flat.dtype).eps * sign))


def extremes(spectrum: Spectrum) -> PyTree:
  """The extreme eigenvector of each end that has any: leaves [1 or 2, ...]."""
  return jax.tree.map(
    lambda top, bottom: jnp.concatenate([top[:1], bottom[:1]]),
    spectrum.top.vectors,
    spectrum.bottom.vectors,
  )


def dominant(operator: Operator, like: PyTree, key: Key) -> PyTree:
  """A unit vector dominated by large eigenvalues, as leaves [1, ...].

  A random vector after POWER_STEPS steps of power iteration: the vector for
  rounding_error where no eigenvectors have been computed.
  """
  flat, unravel = ravel_pytree(like)

  def step(_: int, vector: Array) -> Array:
    return normalise(ravel_pytree(operator(unravel(vector)))[0])

  start = normalise(jax.random.normal(key, flat.shape, flat.dtype))
  vector = jax.lax.fori_loop(0, POWER_STEPS, step, start)
  return jax.tree.map(lambda x: x[None], unravel(vector))


def add_rounding(
  spectrum: Spectrum, rounding: Array, tolerance: float
) -> Spectrum:
  """Extends residual bounds to the operator in exact arithmetic.

  A pair stays converged if its larger residual still meets the tolerance, or
  if rounding is at least half of it: more products would not improve it.

  Args:
    spectrum: from lanczos.
    rounding: from rounding_error, on `extremes` of the spectrum; the products
      it took are added to the spectrum's.
    tolerance: the tolerance given to lanczos.
  """

  def widen(pairs: Eigenpairs) -> Eigenpairs:
    residuals = pairs.residuals + rounding
    enough = jnp.maximum(tolerance * jnp.abs(pairs.values), 2 * rounding)
    return pairs._replace(
      residuals=residuals, converged=pairs.converged & (residuals <= enough)
    )

  # rounding_error took two products for each end.
  ends = sum(bool(x.values.size) for x in (spectrum.top, spectrum.bottom))
  return Spectrum(
    top=widen(spectrum.top),
    bottom=widen(spectrum.bottom),
    products=spectrum.products + 2 * ends,
  )
