"""An orthonormal basis of a Krylov space, one product at a time.

The rows of Q [M, P] are kept with the projected matrix T = Q A Q^T, and obey
A Q^T = Q^T T + r e_last^T: all that the operator does outside the space, it
does to the newest row. Left alone T is tridiagonal (Lanczos 1950); after a
thick restart it has the shape of an arrow (Wu and Simon 2000). Both are simply
what Gram-Schmidt has removed, so nothing here knows the difference.

In floating point a basis made from the last two rows alone loses
orthogonality, and eigenvalues come back as false copies. So every new vector
is orthogonalised against the whole basis, twice ("twice is enough", Parlett
1998, 6.9).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from induction_jax.devices.lapack import one_at_a_time
from induction_jax.spectra.layout import WHOLE, Layout
from induction_jax.types import Array

Product = Callable[[Array], Array]  # [P'] -> [P'], packed
_Removal = tuple[Array, Array]  # the first two fields of a Remainder

# Rows that Gram-Schmidt takes at a time: few enough to leave most of the empty
# rows unread and to stay in cache between their two uses.
BLOCK = 8
# Terms that a product of long vectors adds up in one go, at least. A CPU adds
# them one after another: at P = 1e6 rows were then orthogonal to 2e-4 alone.
CHUNK = 2**16


class Krylov(NamedTuple):
  """A basis with its projected matrix. Memory is the basis, M * P.

  Its vectors are packed in a layout: P' is P rounded up to whole parts.
  """

  basis: Array  # [M rounded up to BLOCK, P'], rows from `order` on zero
  projected: Array  # [M, M], zero from row and column `order` on
  direction: Array  # [P'], unit, the next row
  residual: Array  # [], the norm of r
  order: Array  # [], rows filled, int32
  products: Array  # [], products so far, int32


class Remainder(NamedTuple):
  """A vector without its components along the rows of a basis."""

  vector: Array  # [P']
  removed: Array  # one coefficient for each row, summed over the times
  norm: Array  # of the vector


def init_krylov(start: Array, max_order: int, layout: Layout = WHOLE) -> Krylov:
  """An empty basis of up to `max_order` rows that begins at `start` [P]."""
  rows = -(-max_order // BLOCK) * BLOCK
  direction = normalise(layout.pack(start))
  return Krylov(
    basis=layout.split(jnp.zeros((rows, direction.size), start.dtype)),
    projected=jnp.zeros((max_order, max_order), start.dtype),
    direction=direction,
    residual=jnp.zeros((), start.dtype),
    order=jnp.zeros((), jnp.int32),
    products=jnp.zeros((), jnp.int32),
  )


def extend(
  product: Product, krylov: Krylov, spare: Array, layout: Layout = WHOLE
) -> Krylov:
  """One more product, one more row.

  Where the space turns out invariant (r = 0) the next direction is new:
  `spare` rolled by the number of products. A fresh draw would need a key, and
  a key used in a branch counts as used twice under vmap.

  Args:
    product: v -> A v on packed vectors.
    krylov: the basis so far, with a row to spare.
    spare: [P], a random vector independent of the start.
    layout: that of the basis.

  Returns:
    The larger basis. A product that is not finite shows in `residual`.
  """
  j = krylov.order
  basis = layout.split(krylov.basis.at[j].set(krylov.direction))
  product_of_last = product(krylov.direction)
  rest = orthogonalise(product_of_last, basis, j + 1, layout.parts)
  removed = rest.removed[: krylov.projected.shape[0]]
  projected = krylov.projected.at[j].set(removed).at[:, j].set(removed)
  rounding = jnp.finfo(removed.dtype).eps * jnp.max(jnp.abs(projected))

  def leave() -> Remainder:
    fresh = normalise(layout.pack(jnp.roll(spare, krylov.products)))
    return orthogonalise(fresh, basis, j + 1, layout.parts)

  broke_down = rest.norm <= rounding
  new = jax.lax.cond(broke_down, leave, lambda: rest)
  return Krylov(
    basis=basis,
    projected=projected,
    direction=layout.split(new.vector / new.norm),
    residual=jnp.where(broke_down, 0, rest.norm),
    order=j + 1,
    products=krylov.products + 1,
  )


def orthogonalise(
  vector: Array, basis: Array, order: Array, parts: int = 1
) -> Remainder:
  """Gram-Schmidt against the first `order` rows, twice.

  The first time against the last two rows alone, to which a product owes all
  but rounding (the three-term recurrence); and a third time where the second
  took much away (Daniel, Gragg, Kaufman and Stewart 1976), as it does after a
  restart. Classical within a block of rows, which is read once.
  """

  def remove(rest: _Removal, first: Array, rows: int) -> _Removal:
    vector, removed = rest
    block = jax.lax.dynamic_slice_in_dim(basis, first, rows)
    coefficients = inner(block, vector, parts)
    # Not a scatter, which XLA runs entry by entry.
    total = jax.lax.dynamic_slice_in_dim(removed, first, rows) + coefficients
    return (
      vector - dot(coefficients, block),
      jax.lax.dynamic_update_slice_in_dim(removed, total, first, 0),
    )

  def remove_all(rest: _Removal) -> Remainder:
    blocks = (order + BLOCK - 1) // BLOCK
    vector, removed = jax.lax.fori_loop(
      0, blocks, lambda i, rest: remove(rest, i * BLOCK, BLOCK), rest
    )
    return Remainder(vector, removed, norm(vector))

  start = vector, jnp.zeros(basis.shape[0], basis.dtype)
  local = remove(start, jnp.maximum(order - 2, 0), 2)
  rest = remove_all(local)
  much = rest.norm < norm(local[0]) / 2**0.5
  return jax.lax.cond(much, lambda: remove_all(rest[:2]), lambda: rest)


def inner(rows: Array, vector: Array, parts: int = 1) -> Array:
  """Rows @ vector [rows], in partial sums: at most 32 for each equal part."""
  if parts > 1:  # each where it is, and only their sums together
    each = jax.vmap(inner, (1, 0))(
      rows.reshape(len(rows), parts, -1), vector.reshape(parts, -1)
    )
    return jnp.sum(each, axis=0)
  size = vector.shape[0]
  chunk = max(CHUNK, -(-size // 32))
  sums = [
    dot(rows[:, first : first + chunk], vector[first : first + chunk])
    for first in range(0, size, chunk)
  ]
  return jnp.sum(jnp.stack(sums), axis=0)


def normalise(vector: Array) -> Array:
  """The unit vector along `vector`; nan where that is zero."""
  return vector / norm(vector)


def norm(vector: Array) -> Array:
  """Euclidean norm; entries whose squares leave float32's range do not harm."""
  largest = jnp.max(jnp.abs(vector))
  scale = jnp.where(largest > 0, largest, 1)
  return scale * jnp.linalg.norm(vector / scale)


def dot(a: Array, b: Array) -> Array:
  """Matrix product in full float32 (a GPU's default is TF32)."""
  return jnp.dot(a, b, precision="highest")


def eigh(matrix: Array) -> tuple[Array, Array]:
  """Eigenvalues [M], ascending, and eigenvectors [M, M] in columns.

  Under vmap a CPU takes one matrix after another (see devices.lapack).
  """
  return _eigh(matrix)


_eigh = one_at_a_time(lambda matrix: tuple(jnp.linalg.eigh(matrix)))
