"""Both ends of a symmetric operator's spectrum, with residual bounds.

Lanczos builds an orthonormal basis Q [M, P] of a Krylov space on which the
operator acts as T = Q A Q^T, up to one vector: A Q^T = Q^T T + r e_last^T.
Eigenpairs (theta, s) of T give Ritz pairs (theta, y = Q^T s) of A, signed and
at both ends at once, whose residual is known without another product:
||A y - theta y|| = ||r|| |s_last| (Paige 1971; Parlett 1998, ch. 13).

A full basis is restarted from the Ritz vectors nearest both ends (thick
restart: Wu and Simon 2000; the symmetric Krylov-Schur method of Stewart 2001).
The relation still holds afterwards, and with it the residuals.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from induction_jax.spectra.checks import check_dtype
from induction_jax.spectra.eigenpairs import (
  ROUNDING_UNITS,
  Eigenpairs,
  Spectrum,
  check_ks,
)
from induction_jax.spectra.krylov import (
  UNSHARDED,
  Krylov,
  VectorSharding,
  dot,
  eigh,
  extend,
  init_krylov,
  make_product,
)
from induction_jax.spectra.operators import Operator
from induction_jax.types import Array, Key, PyTree

# Products between two checks of convergence; a check is an eigh of T.
CHECK_EVERY = 4
# The size of that eigh is rounded up to a multiple of this. On a CPU it is
# LAPACK's, whose threads may compete with XLA's for the cores:
# OPENBLAS_NUM_THREADS=1 made it 8 times faster on a busy machine.
EIGH_SIZE_STEP = 32
# A restart keeps the wanted pairs and this share of the other rows.
KEPT_SHARE = 0.4


class _Ritz(NamedTuple):
  """Ritz pairs: k_top in descending order, then k_bottom in ascending."""

  values: Array  # [k_top + k_bottom]
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
  start: PyTree | None = None,
  max_basis: int | None = None,
  sharding: VectorSharding = UNSHARDED,
) -> Spectrum:
  """The largest and the smallest eigenvalues of a symmetric operator.

  Stops when every wanted pair has ||A v - lambda v|| <= tolerance * |lambda|
  (ARPACK's criterion; a pair at the level of rounding counts as converged), or
  after `max_order` products. An eigenvalue's error is at most its residual,
  and quadratic in it if the eigenvalue is isolated.

  A converged pair is an eigenpair, but not necessarily the outermost: a pair
  to which the start vector is nearly orthogonal appears late, and earlier the
  smaller the tolerance. One start vector sees one copy of a repeated
  eigenvalue; further copies appear only when the basis has exhausted an
  invariant subspace and continues from a new random vector.

  An operator that is not symmetric has no such pairs, and nothing here would
  notice: test an operator of your own with check_operator. Residual bounds are
  for the operator as computed; rounding_error and add_rounding extend them to
  exact arithmetic. If a product is not finite the iteration ends, every number
  is nan and no pair is converged.

  Works under jit and vmap. Memory is the basis, max_basis * P numbers, and
  half as much again at a restart.

  Args:
    operator: v -> A v, linear and symmetric, on pytrees like `like`.
    like: a pytree with the shapes and the one floating dtype of v.
    key: for the random start, and for new directions.
    k_top: pairs wanted at the upper end.
    k_bottom: pairs wanted at the lower end.
    max_order: the largest number of products.
    tolerance: relative residual at which a pair counts as converged.
    start: the start vector, instead of a random one; not zero.
    max_basis: M, the largest number of rows of the basis [M, P]; max_order by
      default, which never restarts. With k = k_top + k_bottom,
      max(2 k, k + 15) serves well.
    sharding: of the vectors of the basis. Eigenvectors are returned gathered.

  Returns:
    A Spectrum. If P < k_top + k_bottom the two ends share eigenpairs.

  Raises:
    TypeError: if `like` has more than one dtype, or none that is floating.
    ValueError: if both ks are 0, one is negative or above P, max_order is too
      small for both, max_basis leaves no room to restart, or `start` does not
      have the shapes of `like`.
  """
  check_dtype(like)
  flat, unravel = ravel_pytree(like)
  if start is not None and _shapes(start) != _shapes(like):
    raise ValueError(
      f"start must have the shapes of like, {_shapes(like)}, got "
      f"{_shapes(start)}"
    )
  size = flat.size
  _check_sizes(size, k_top, k_bottom, max_order, max_basis)
  wanted = min(k_top + k_bottom, size)
  rows = min(max_order, size, max_basis or max_order)
  may_restart = rows < min(max_order, size)
  product = make_product(operator, unravel, size, sharding)

  def find_pairs(krylov: Krylov) -> _Ritz:
    return _ritz(krylov, k_top, k_bottom, tolerance)

  def advance(carry: tuple[Krylov, _Ritz]) -> tuple[Krylov, _Ritz]:
    krylov, _ = carry
    if may_restart:
      krylov = jax.lax.cond(
        krylov.order == rows,
        lambda: _restart(krylov, k_top, k_bottom, sharding),
        lambda: krylov,
      )
    steps = jnp.maximum(wanted - krylov.order, CHECK_EVERY)
    steps = jnp.minimum(steps, max_order - krylov.products)
    target = jnp.minimum(krylov.order + steps, rows)
    krylov = jax.lax.while_loop(
      lambda krylov: (krylov.order < target) & jnp.isfinite(krylov.residual),
      lambda krylov: extend(product, krylov, spare, sharding),
      krylov,
    )
    return krylov, find_pairs(krylov)

  def unfinished(carry: tuple[Krylov, _Ritz]) -> Array:
    krylov, ritz = carry
    room = (krylov.order < size) & (krylov.products < max_order)
    return ~jnp.all(ritz.converged) & room & jnp.isfinite(krylov.residual)

  start_key, spare_key = jax.random.split(key)
  spare = jax.random.normal(spare_key, (size,), flat.dtype)
  first = (
    jax.random.normal(start_key, (size,), flat.dtype)
    if start is None
    else ravel_pytree(start)[0]
  )
  krylov = init_krylov(first, rows, sharding)
  nothing = jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(find_pairs, krylov)
  )
  krylov, ritz = jax.lax.while_loop(unfinished, advance, (krylov, nothing))
  # Sharded until only k vectors are left: else the basis would be gathered.
  vectors = sharding.shard(dot(ritz.coordinates, krylov.basis[:rows]))
  vectors = sharding.unpack(vectors, size)  # [k_top + k_bottom, P]

  def pairs(end: slice) -> Eigenpairs:
    return Eigenpairs(
      values=ritz.values[end],
      vectors=jax.vmap(unravel)(vectors[end]),
      residuals=ritz.residuals[end],
      converged=ritz.converged[end],
    )

  return Spectrum(
    pairs(slice(k_top)), pairs(slice(k_top, None)), krylov.products
  )


def _shapes(tree: PyTree) -> PyTree:
  return jax.tree.map(jnp.shape, tree)


def _check_sizes(
  size: int, k_top: int, k_bottom: int, max_order: int, max_basis: int | None
) -> None:
  check_ks(size, k_top, k_bottom)
  wanted = min(k_top + k_bottom, size)
  if max_order < wanted:
    raise ValueError(
      f"max_order must be at least min(k_top + k_bottom, P)={wanted}, got "
      f"max_order={max_order}"
    )
  if max_basis is not None and max_basis < min(wanted + 2, max_order, size):
    raise ValueError(
      f"max_basis must be at least k_top + k_bottom + 2={wanted + 2}, got "
      f"max_basis={max_basis}"
    )


def _restart(
  krylov: Krylov, k_top: int, k_bottom: int, sharding: VectorSharding
) -> Krylov:
  """Reduces a full basis to the Ritz vectors nearest both ends."""
  rows = krylov.projected.shape[0]
  more = int(KEPT_SHARE * (rows - k_top - k_bottom))
  k_top, k_bottom = k_top + more - more // 2, k_bottom + more // 2
  values, coordinates = _ends(krylov, k_top, k_bottom)
  kept = len(values)
  basis = dot(coordinates, krylov.basis[:rows])  # [kept, P']
  return krylov._replace(
    basis=sharding.shard(jnp.zeros_like(krylov.basis).at[:kept].set(basis)),
    projected=jnp.zeros_like(krylov.projected)
    .at[:kept, :kept]
    .set(jnp.diag(values)),
    order=jnp.full_like(krylov.order, kept),
  )


def _ritz(krylov: Krylov, k_top: int, k_bottom: int, tolerance: float) -> _Ritz:
  """Ritz pairs at both ends, with residual bounds."""
  values, coordinates = _ends(krylov, k_top, k_bottom)
  finite = jnp.isfinite(krylov.residual)
  values = jnp.where(finite, values, jnp.nan)
  coordinates = jnp.where(finite, coordinates, jnp.nan)
  # The norm of the operator, not only of the wanted end.
  norm = jnp.max(jnp.sum(jnp.abs(krylov.projected), axis=1))
  floor = ROUNDING_UNITS * jnp.finfo(values.dtype).eps * norm
  last = jnp.abs(coordinates[:, krylov.order - 1])
  residuals = krylov.residual * last + floor
  converged = residuals <= jnp.maximum(tolerance * jnp.abs(values), 2 * floor)
  # False so near underflow that rounding itself underflows.
  representable = (floor >= jnp.finfo(values.dtype).tiny) | (norm == 0)
  converged &= representable
  return _Ritz(values, coordinates, residuals, converged)


def _ends(krylov: Krylov, k_top: int, k_bottom: int) -> tuple[Array, Array]:
  """Eigenpairs of T's leading block of size `order`: top, then bottom.

  Solves the smallest multiple of EIGH_SIZE_STEP that contains the block: an
  eigh of all M rows would cost more than the products between two checks.
  """
  rows = krylov.projected.shape[0]
  sizes = [
    min(n, rows)
    for n in range(EIGH_SIZE_STEP, rows + EIGH_SIZE_STEP, EIGH_SIZE_STEP)
  ]

  def solve(size: int) -> tuple[Array, Array]:
    block = krylov.projected[:size, :size]
    # Rows not yet filled get eigenvalues above all others.
    norm = jnp.max(jnp.sum(jnp.abs(block), axis=0))
    beyond = jnp.where(norm > 0, 2 * norm, 1)
    filled = jnp.arange(size) < krylov.order
    values, vectors = eigh(block + jnp.diag(jnp.where(filled, 0, beyond)))
    top = jnp.maximum(krylov.order - 1 - jnp.arange(k_top), 0)
    ends = jnp.concatenate([top, jnp.arange(k_bottom)])
    return values[ends], jnp.pad(vectors[:, ends].T, ((0, 0), (0, rows - size)))

  return jax.lax.switch(
    (krylov.order - 1) // EIGH_SIZE_STEP,
    [partial(solve, size) for size in sizes],
  )
