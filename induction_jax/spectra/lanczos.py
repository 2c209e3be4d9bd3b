"""Both ends of a symmetric operator's spectrum, with residual bounds.

Lanczos builds an orthonormal basis Q [M, P] of a Krylov space, on which the
operator is T = Q A Q^T but for one vector: A Q^T = Q^T T + r e_last^T.
Eigenpairs (theta, s) of T give Ritz pairs (theta, Q^T s) of A whose residual
is known without another product: ||A y - theta y|| = ||r|| |s_last| (Paige
1971; Parlett 1998, ch. 13). Eigenvalues come signed, both ends at once.

A basis that is full starts again from the Ritz vectors worth keeping (thick
restart: Wu and Simon 2000; the symmetric Krylov-Schur of Stewart 2001). The
same relation holds afterwards, and so do the bounds.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from induction_jax.spectra.checks import check_dtype
from induction_jax.spectra.krylov import (
  Krylov,
  dot,
  eigh,
  extend,
  init_krylov,
)
from induction_jax.spectra.layout import WHOLE, Layout
from induction_jax.spectra.operators import Operator
from induction_jax.types import Array, Key, PyTree

# No residual is known better than this many units of rounding of the spectral
# norm: the rounding of Lanczos itself, on a well-conditioned operator. What
# the operator's own rounding adds is measured in spectra/rounding.py.
ROUNDING_UNITS = 32
# Products between two looks at convergence; a look is an eigh of [M, M].
CHECK_EVERY = 4
# The eigh's sizes are multiples of this. On a CPU it is LAPACK's, whose threads
# may fight with XLA's over the cores: OPENBLAS_NUM_THREADS=1 made it 8 times
# faster on a busy machine.
LOOK_SIZE = 32
# A restart keeps the wanted pairs and this share of the other rows.
KEPT_SHARE = 0.4


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
    """Spectral norm: the largest |eigenvalue|; needs both ends."""
    return jnp.maximum(self.top.values[0], -self.bottom.values[0])


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
  start: PyTree | None = None,
  max_basis: int | None = None,
  layout: Layout = WHOLE,
) -> Spectrum:
  """The largest and the smallest eigenvalues of a symmetric operator.

  Stops once every wanted pair has ||A v - lambda v|| <= tolerance * |lambda|
  (ARPACK's criterion; a pair at the level of rounding counts as converged),
  or at `max_order` products. An eigenvalue's error is at most its residual,
  and quadratic in it where it stands apart. That a pair converged says that
  it is an eigenpair, not that none lies further out: one to which the start
  vector is nearly orthogonal shows late, sooner at a smaller tolerance. One
  start vector sees a repeated eigenvalue once: its copies are found only
  where the basis has exhausted an invariant subspace and goes on from a new
  random vector. Works under jit and vmap; while_loop inside.

  An operator that is not symmetric has no such pairs, and nothing here would
  notice: test one of your own with check_operator.

  Residual bounds are those of the operator as computed; rounding_error and
  add_rounding extend them to the exact one.

  A product that is not finite ends it at once: every number is then nan and
  no pair converged.

  Memory is the basis, max_basis * P, and half as much again at a restart.

  Args:
    operator: v -> A v, linear and symmetric, on pytrees like `like`.
    like: a pytree with the shapes and the one floating dtype of v.
    key: for the random start, and for new directions.
    k_top: pairs wanted at the upper end.
    k_bottom: pairs wanted at the lower end.
    max_order: the most products.
    tolerance: relative residual at which a pair counts as converged.
    start: where to start, in place of a random vector; not zero.
    max_basis: M, the most rows of the basis [M, P]; by default max_order,
      with which it never restarts. With k = k_top + k_bottom, max(2 k, k + 15)
      serves well.
    layout: of the vectors of the basis. The pairs come back whole.

  Returns:
    A Spectrum. Where P < k_top + k_bottom the two ends share eigenpairs.

  Raises:
    TypeError: if `like` has more than one dtype, or none that is floating.
    ValueError: if both ks are 0, one is negative or above P, max_order is too
      small for both, max_basis has no room to restart, or `start` is not like
      `like`.
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

  def product(vector: Array) -> Array:
    vector = layout.unpack(vector, size)
    return layout.pack(ravel_pytree(operator(unravel(vector)))[0])

  def look(krylov: Krylov) -> _Ritz:
    return _ritz(krylov, k_top, k_bottom, tolerance)

  def advance(carry: tuple[Krylov, _Ritz]) -> tuple[Krylov, _Ritz]:
    krylov, _ = carry
    if may_restart:
      krylov = jax.lax.cond(
        krylov.order == rows,
        lambda: _restart(krylov, k_top, k_bottom, layout),
        lambda: krylov,
      )
    steps = jnp.maximum(wanted - krylov.order, CHECK_EVERY)
    steps = jnp.minimum(steps, max_order - krylov.products)
    target = jnp.minimum(krylov.order + steps, rows)
    krylov = jax.lax.while_loop(
      lambda krylov: (krylov.order < target) & jnp.isfinite(krylov.residual),
      lambda krylov: extend(product, krylov, spare, layout),
      krylov,
    )
    return krylov, look(krylov)

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
  krylov = init_krylov(first, rows, layout)
  nothing = jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(look, krylov)
  )
  krylov, ritz = jax.lax.while_loop(unfinished, advance, (krylov, nothing))
  # In parts until there are few of them: else the basis would be gathered.
  vectors = layout.split(dot(ritz.coordinates, krylov.basis[:rows]))
  vectors = layout.unpack(vectors, size)  # [k_top + k_bottom, P]

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


def check_ks(size: int, k_top: int, k_bottom: int) -> None:
  """Raises ValueError unless each is from 0 to P, and not both are 0."""
  either_end = max(k_top, k_bottom)
  if min(k_top, k_bottom) < 0 or not 1 <= either_end <= size:
    raise ValueError(
      f"k_top and k_bottom must be from 0 to P={size}, and not both 0, got "
      f"k_top={k_top}, k_bottom={k_bottom}"
    )


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
  krylov: Krylov, k_top: int, k_bottom: int, layout: Layout
) -> Krylov:
  """A full basis, cut down to the Ritz vectors nearest both ends."""
  rows = krylov.projected.shape[0]
  more = int(KEPT_SHARE * (rows - k_top - k_bottom))
  k_top, k_bottom = k_top + more - more // 2, k_bottom + more // 2
  values, coordinates = _ends(krylov, k_top, k_bottom)
  kept = len(values)
  basis = dot(coordinates, krylov.basis[:rows])  # [kept, P']
  return krylov._replace(
    basis=layout.split(jnp.zeros_like(krylov.basis).at[:kept].set(basis)),
    projected=jnp.zeros_like(krylov.projected)
    .at[:kept, :kept]
    .set(jnp.diag(values)),
    order=jnp.full_like(krylov.order, kept),
  )


def _ritz(krylov: Krylov, k_top: int, k_bottom: int, tolerance: float) -> _Ritz:
  """Ritz pairs of both ends and what is known of them."""
  values, coordinates = _ends(krylov, k_top, k_bottom)
  finite = jnp.isfinite(krylov.residual)
  values = jnp.where(finite, values, jnp.nan)
  coordinates = jnp.where(finite, coordinates, jnp.nan)
  # Of the whole operator, and not of the wanted end alone.
  norm = jnp.max(jnp.sum(jnp.abs(krylov.projected), axis=1))
  floor = ROUNDING_UNITS * jnp.finfo(values.dtype).eps * norm
  last = jnp.abs(coordinates[:, krylov.order - 1])
  residuals = krylov.residual * last + floor
  converged = residuals <= jnp.maximum(tolerance * jnp.abs(values), 2 * floor)
  # So near underflow that rounding itself cannot be told from zero.
  known = (floor >= jnp.finfo(values.dtype).tiny) | (norm == 0)
  converged &= known
  return _Ritz(values, coordinates, residuals, converged)


def _ends(krylov: Krylov, k_top: int, k_bottom: int) -> tuple[Array, Array]:
  """Eigenpairs of T's leading block of size `order`: top, then bottom.

  The eigh is that of the smallest multiple of LOOK_SIZE that holds the block:
  one of all M rows would cost more than the products between two looks.
  """
  rows = krylov.projected.shape[0]
  sizes = [min(n, rows) for n in range(LOOK_SIZE, rows + LOOK_SIZE, LOOK_SIZE)]

  def solve(size: int) -> tuple[Array, Array]:
    block = krylov.projected[:size, :size]
    # Rows not yet filled get eigenvalues above all others, out of the way.
    norm = jnp.max(jnp.sum(jnp.abs(block), axis=0))
    beyond = jnp.where(norm > 0, 2 * norm, 1)
    inside = jnp.arange(size) < krylov.order
    values, vectors = eigh(block + jnp.diag(jnp.where(inside, 0, beyond)))
    top = jnp.maximum(krylov.order - 1 - jnp.arange(k_top), 0)
    ends = jnp.concatenate([top, jnp.arange(k_bottom)])
    return values[ends], jnp.pad(vectors[:, ends].T, ((0, 0), (0, rows - size)))

  return jax.lax.switch(
    (krylov.order - 1) // LOOK_SIZE, [partial(solve, size) for size in sizes]
  )
