"""Both ends of a symmetric operator's spectrum, with residual bounds.

Lanczos builds an orthonormal basis Q [M, P] of a Krylov space in which the
operator is tridiagonal, A Q^T = Q^T T + r e_M^T. Eigenpairs (theta, s) of T
give Ritz pairs (theta, Q^T s) of A whose residual is known without another
product: ||A y - theta y|| = beta_M |s_M| (Paige 1971; Parlett 1998, ch. 13).
Eigenvalues come signed, both ends at once.

In floating point the basis loses orthogonality and eigenvalues come back as
false copies, so every new vector is orthogonalised against the whole basis,
twice ("twice is enough", Parlett 1998, 6.9). Memory is the basis: M * P.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from induction_jax.spectra.operators import Operator
from induction_jax.types import Array, Key, PyTree

# No residual is known better than this many units of rounding of the spectral
# norm: the rounding of Lanczos itself, on a well-conditioned operator. What
# the operator's own rounding adds is measured in spectra/rounding.py.
ROUNDING_UNITS = 32
# Products between two looks at convergence; a look is an eigh of [M, M].
CHECK_EVERY = 4


class Eigenpairs(NamedTuple):
  """k eigenpairs of one end of the spectrum, the extreme one first."""

  values: Array  # [k]
  vectors: PyTree  # leaves [k, ...], orthonormal
  residuals: Array  # [k], bound on ||A v - value v||
  converged: Array  # [k] bool


class Spectrum(NamedTuple):
  """Both ends of the spectrum and what they cost."""

  top: Eigenpairs  # descending from the largest
  bottom: Eigenpairs  # ascending from the smallest
  products: Array  # number of products used, int32

  @property
  def norm(self) -> Array:
    """Spectral norm: the largest |eigenvalue|."""
    return jnp.maximum(self.top.values[0], -self.bottom.values[0])


class _State(NamedTuple):
  basis: Array  # [M, P], rows from `order` on zero
  direction: Array  # [P], the next row
  diagonal: Array  # [M]
  off_diagonal: Array  # [M], off_diagonal[j] couples j and j + 1
  order: Array


class _Ritz(NamedTuple):
  values: Array  # [k_top + k_bottom], descending, then ascending
  coordinates: Array  # [k_top + k_bottom, M], in the basis
  residuals: Array  # [k_top + k_bottom]
  converged: Array  # [k_top + k_bottom]


def lanczos(
  operator: Operator,
  like: PyTree,
  key: Key,
  *,
  k_top: int,
  k_bottom: int,
  max_order: int,
  tolerance: float,
) -> Spectrum:
  """The largest and the smallest eigenvalues of a symmetric operator.

  Stops once every wanted pair has ||A v - lambda v|| <= tolerance * |lambda|
  (ARPACK's criterion; a pair at the level of rounding counts as converged),
  or at `max_order` products. An eigenvalue's error is at most its residual,
  and quadratic in it where it stands apart. One start vector sees a repeated
  eigenvalue once: its copies are found only where the basis has exhausted an
  invariant subspace and goes on from a fresh random vector. Works under jit
  and vmap; while_loop inside.

  Residual bounds are those of the operator as computed; rounding_error and
  add_rounding extend them to the exact one.

  Args:
    operator: v -> A v, linear and symmetric, on pytrees like `like`.
    like: a pytree with the shapes and the one floating dtype of v.
    key: for the random start.
    k_top: pairs wanted at the upper end, at least 1.
    k_bottom: pairs wanted at the lower end, at least 1.
    max_order: M, the most products and the size of the basis [M, P].
    tolerance: relative residual at which a pair counts as converged.

  Returns:
    A Spectrum. Where P < k_top + k_bottom the two ends share eigenpairs.

  Raises:
    ValueError: if a k is below 1 or above P, or max_order too small for both.
  """
  flat, unravel = ravel_pytree(like)
  size = flat.size
  min_order = min(k_top + k_bottom, size)
  if not 1 <= min(k_top, k_bottom) <= max(k_top, k_bottom) <= size:
    raise ValueError(
      f"k_top and k_bottom must be from 1 to P={size}, got "
      f"k_top={k_top}, k_bottom={k_bottom}"
    )
  if max_order < min_order:
    raise ValueError(
      f"max_order must be at least min(k_top + k_bottom, P)={min_order}, got "
      f"max_order={max_order}"
    )
  max_order = min(max_order, size)

  def product(vector: Array) -> Array:
    return ravel_pytree(operator(unravel(vector)))[0]

  def look(state: _State) -> _Ritz:
    return _ritz(state, k_top, k_bottom, tolerance)

  def advance(carry: tuple[_State, _Ritz]) -> tuple[_State, _Ritz]:
    state, _ = carry
    steps = jnp.where(state.order == 0, min_order, CHECK_EVERY)
    steps = jnp.minimum(steps, max_order - state.order)
    state = jax.lax.fori_loop(
      0, steps, lambda _, state: _extend(product, state, restart_key), state
    )
    return state, look(state)

  def unfinished(carry: tuple[_State, _Ritz]) -> Array:
    state, ritz = carry
    return ~jnp.all(ritz.converged) & (state.order < max_order)

  start_key, restart_key = jax.random.split(key)
  start = _normalise(jax.random.normal(start_key, (size,), flat.dtype))
  state = _State(
    basis=jnp.zeros((max_order, size), flat.dtype),
    direction=start,
    diagonal=jnp.zeros(max_order, flat.dtype),
    off_diagonal=jnp.zeros(max_order, flat.dtype),
    order=jnp.zeros((), jnp.int32),
  )
  nothing = jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(look, state)
  )
  state, ritz = jax.lax.while_loop(unfinished, advance, (state, nothing))
  vectors = _dot(ritz.coordinates, state.basis)  # [k_top + k_bottom, P]

  def pairs(end: slice) -> Eigenpairs:
    return Eigenpairs(
      values=ritz.values[end],
      vectors=jax.vmap(unravel)(vectors[end]),
      residuals=ritz.residuals[end],
      converged=ritz.converged[end],
    )

  return Spectrum(pairs(slice(k_top)), pairs(slice(k_top, None)), state.order)


def _extend(
  product: Callable[[Array], Array], state: _State, key: Key
) -> _State:
  """One more product, one more row of the basis."""
  j = state.order
  basis = state.basis.at[j].set(state.direction)
  residual, coefficients = _orthogonalise(product(state.direction), basis)
  diagonal = state.diagonal.at[j].set(coefficients[j])
  beta = jnp.linalg.norm(residual)
  scale = jnp.maximum(jnp.max(jnp.abs(diagonal)), jnp.max(state.off_diagonal))
  broke_down = beta <= jnp.finfo(beta.dtype).eps * scale

  def restart() -> Array:
    fresh = jax.random.normal(
      jax.random.fold_in(key, j), residual.shape, residual.dtype
    )
    return _orthogonalise(_normalise(fresh), basis)[0]

  direction = jax.lax.cond(broke_down, restart, lambda: residual)
  return _State(
    basis=basis,
    direction=_normalise(direction),
    diagonal=diagonal,
    off_diagonal=state.off_diagonal.at[j].set(jnp.where(broke_down, 0, beta)),
    order=j + 1,
  )


def _orthogonalise(vector: Array, basis: Array) -> tuple[Array, Array]:
  """Classical Gram-Schmidt, twice; also returns the coefficients removed."""
  total = jnp.zeros(basis.shape[0], basis.dtype)
  for _ in range(2):
    coefficients = _dot(basis, vector)
    vector = vector - _dot(coefficients, basis)
    total = total + coefficients
  return vector, total


def _ritz(state: _State, k_top: int, k_bottom: int, tolerance: float) -> _Ritz:
  """Eigenpairs of T's leading block of size `order`, both ends."""
  size = state.diagonal.shape[0]
  inside = jnp.arange(size) < state.order
  off_diagonal = jnp.where(inside[1:], state.off_diagonal[:-1], 0)
  bound = jnp.max(jnp.abs(state.diagonal)) + 2 * jnp.max(state.off_diagonal)
  # Rows not yet filled get eigenvalues above all others, out of the way.
  diagonal = jnp.where(inside, state.diagonal, 2 * bound + 1)
  tridiagonal = (
    jnp.diag(diagonal) + jnp.diag(off_diagonal, 1) + jnp.diag(off_diagonal, -1)
  )
  values, vectors = jnp.linalg.eigh(tridiagonal)
  top = jnp.maximum(state.order - 1 - jnp.arange(k_top), 0)
  ends = jnp.concatenate([top, jnp.arange(k_bottom)])
  values, coordinates = values[ends], vectors[:, ends].T
  floor = (
    ROUNDING_UNITS * jnp.finfo(values.dtype).eps * jnp.max(jnp.abs(values))
  )
  beta = state.off_diagonal[state.order - 1]
  residuals = beta * jnp.abs(coordinates[:, state.order - 1]) + floor
  converged = residuals <= jnp.maximum(tolerance * jnp.abs(values), 2 * floor)
  return _Ritz(values, coordinates, residuals, converged)


def _normalise(vector: Array) -> Array:
  return vector / jnp.linalg.norm(vector)


def _dot(a: Array, b: Array) -> Array:
  return jnp.dot(a, b, precision="highest")
