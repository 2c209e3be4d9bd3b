"""How far rounding may have moved a spectrum, measured.

Lanczos bounds the residual of the operator it was given; the products of a
float32 network are not exactly those of its Hessian. How far off they are
depends on the network: from 2 to 6,000 units of rounding of the spectral norm
were seen, most where the weights are large and the softmax cancels. No
constant bounds that, so it is measured: as the change of a product when every
parameter is moved by one unit of rounding.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from induction_jax.spectra.krylov import normalise
from induction_jax.spectra.lanczos import Eigenpairs, Spectrum
from induction_jax.spectra.operators import Operator
from induction_jax.types import Array, Key, PyTree

# The error of a residual against float64 was from 0.5 to 2 times the largest
# change measured, over trained and untrained networks and weights three times
# too large; one nudge differs from the next by up to five times.
SAFETY = 8.0


# Products that dominant takes.
POWER_STEPS = 6


def nudge(params: PyTree, key: Key) -> PyTree:
  """Moves every parameter by one unit of rounding, up or down at random."""
  flat, unravel = ravel_pytree(params)
  sign = jax.random.rademacher(key, flat.shape, flat.dtype)
  return unravel(flat * (1 + jnp.finfo(flat.dtype).eps * sign))


def extremes(spectrum: Spectrum) -> PyTree:
  """The first eigenvector of each end there is: leaves [1 or 2, ...]."""
  return jax.tree.map(
    lambda top, bottom: jnp.concatenate([top[:1], bottom[:1]]),
    spectrum.top.vectors,
    spectrum.bottom.vectors,
  )


def dominant(operator: Operator, like: PyTree, key: Key) -> PyTree:
  """A unit vector in which large eigenvalues dominate, as leaves [1, ...].

  For rounding_error, where no eigenvectors are at hand: a random vector after
  POWER_STEPS products.
  """
  flat, unravel = ravel_pytree(like)

  def step(_: int, vector: Array) -> Array:
    return normalise(ravel_pytree(operator(unravel(vector)))[0])

  start = normalise(jax.random.normal(key, flat.shape, flat.dtype))
  vector = jax.lax.fori_loop(0, POWER_STEPS, step, start)
  return jax.tree.map(lambda x: x[None], unravel(vector))


def rounding_error(
  vectors: PyTree,
  operator_at: Callable[[PyTree], Operator],
  params: PyTree,
  key: Key,
) -> Array:
  """Bound on what rounding adds to a residual: an estimate, not a proof.

  The largest change of a product when the parameters are nudged, over the
  vectors, times a factor of safety. Takes two products a vector, which are
  one body of code however many there are.

  Args:
    vectors: `extremes` of the operator's spectrum (rounding acts most where
      curvature is large).
    operator_at: params -> the operator.
    params: the parameters.
    key: for the nudge.
  """
  both = jax.tree.map(lambda *x: jnp.stack(x), params, nudge(params, key))
  products = jax.lax.map(
    lambda params: jax.lax.map(operator_at(params), vectors), both
  )
  squares = jax.tree.map(
    lambda x: jnp.sum((x[0] - x[1]) ** 2, axis=range(1, x.ndim - 1)), products
  )  # leaves [1 or 2]
  return SAFETY * jnp.sqrt(jnp.max(sum(jax.tree.leaves(squares))))


def add_rounding(
  spectrum: Spectrum, rounding: Array, tolerance: float
) -> Spectrum:
  """The spectrum with residual bounds that hold for the exact operator.

  A pair stays converged where its residual meets the tolerance all the same,
  or where rounding is most of it: more products would not improve it.

  Args:
    spectrum: from lanczos.
    rounding: from rounding_error.
    tolerance: that of lanczos.
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
