"""How far rounding may have moved a spectrum, measured.

Lanczos bounds the residual of the operator it was given; the products of a
float32 network are not exactly those of its Hessian. How far off they are
depends on the network: from 2 to 6,000 units of rounding of the spectral norm
were seen, most where the weights are large and the softmax cancels. No
constant bounds that, so it is measured: as the change of a product when every
parameter is moved by one unit of rounding.
"""

import jax
import jax.numpy as jnp

from induction_jax.spectra.lanczos import Eigenpairs, Spectrum
from induction_jax.spectra.operators import Operator
from induction_jax.types import Array, Key, PyTree

# The error of a residual against float64 was from 0.5 to 2 times the largest
# change measured, over trained and untrained networks and weights three times
# too large; one nudge differs from the next by up to five times.
SAFETY = 8.0
# Products that rounding_error takes, with each of its two operators.
VECTORS = 2


def nudge(params: PyTree, key: Key) -> PyTree:
  """Moves every parameter by one unit of rounding, up or down at random."""
  leaves, structure = jax.tree.flatten(params)
  keys = jax.random.split(key, len(leaves))
  nudged = [
    x
    * (1 + jnp.finfo(x.dtype).eps * jax.random.rademacher(k, x.shape, x.dtype))
    for k, x in zip(keys, leaves)
  ]
  return jax.tree.unflatten(structure, nudged)


def rounding_error(
  spectrum: Spectrum, operator: Operator, nudged: Operator
) -> Array:
  """Bound on what rounding adds to a residual: an estimate, not a proof.

  The largest change of a product between the two operators, over the first
  eigenvectors of both ends (rounding acts most where curvature is large),
  times a factor of safety. Takes two products of each operator.

  Args:
    spectrum: of `operator`.
    operator: the operator at the parameters.
    nudged: the same operator at `nudge(params)`.
  """

  def change(vector: PyTree) -> Array:
    difference = jax.tree.map(jnp.subtract, operator(vector), nudged(vector))
    return jnp.sqrt(sum(jnp.sum(x**2) for x in jax.tree.leaves(difference)))

  extremes = jax.tree.map(
    lambda top, bottom: jnp.stack([top[0], bottom[0]]),
    spectrum.top.vectors,
    spectrum.bottom.vectors,
  )
  return SAFETY * jnp.max(jax.lax.map(change, extremes))


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

  return Spectrum(
    top=widen(spectrum.top),
    bottom=widen(spectrum.bottom),
    products=spectrum.products + 2 * VECTORS,
  )
