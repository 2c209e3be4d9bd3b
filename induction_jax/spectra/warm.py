"""Where Lanczos begins, given what it found before.

One vector that holds all the old eigenvectors still takes a product for each
to tell them apart, so there is less to gain than it seems: for ten pairs at
each end of a two-layer network's Hessian, 0 to 13 % of the products from one
step to the next (overlap 0.65 to 0.95), and ten steps later (overlap 0.1 to
0.35) anything from 8 % fewer to 27 % more. A start made of old directions is
also slow to see a new one. So a warm start is taken only while eigenspaces
last, has a random part, and is given up for a cold one every so often.
"""

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from induction_jax.spectra.krylov import normalise
from induction_jax.types import Array, Key, PyTree

# Share of a warm start's squared norm that is random.
RANDOM_SHARE = 0.01
# Overlap of two eigenspaces from which the older is a start for the next.
LEAST_OVERLAP = 0.6
# Measurements from one cold start to the next, however stable the spaces.
AUDIT_EVERY = 10


def may_start_warm(overlap: Array, since_cold: Array) -> Array:
  """Whether eigenspaces last long enough to start from them, a bool.

  Args:
    overlap: of the last two measurements' eigenspaces, the lower of the two
      ends', from overlap(); nan, where there were none, says no.
    since_cold: measurements since the last cold start, 0 after one.
  """
  return (overlap >= LEAST_OVERLAP) & (since_cold + 1 < AUDIT_EVERY)


def make_start(
  top: PyTree, bottom: PyTree, key: Key, warm: Array | bool = True
) -> PyTree:
  """A unit start for lanczos: the sum of eigenvectors, and a random part.

  Both kinds are one program: `warm` may be traced.

  Args:
    top: leaves [k_top, ...], orthonormal; anything where `warm` is false.
    bottom: leaves [k_bottom, ...], likewise.
    key: for the random part.
    warm: if false, the start is random altogether.
  """
  old = jax.tree.map(lambda a, b: jnp.sum(a, 0) + jnp.sum(b, 0), top, bottom)
  flat, unravel = ravel_pytree(old)
  fresh = normalise(jax.random.normal(key, flat.shape, flat.dtype))
  share = jnp.asarray(RANDOM_SHARE, flat.dtype)
  mixed = jnp.sqrt(1 - share) * normalise(flat) + jnp.sqrt(share) * fresh
  return unravel(jnp.where(warm, mixed, fresh))
