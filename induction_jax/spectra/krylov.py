"""An orthonormal basis of a Krylov space, one product at a time.

The rows of Q [M, P] are kept with the projected matrix T = Q A Q^T and satisfy
A Q^T = Q^T T + r e_last^T: only the image of the newest row has a component r
outside the space. Without restarts T is tridiagonal (Lanczos 1950); after a
thick restart it has the shape of an arrow (Wu and Simon 2000). The code below
is the same for both, since T is filled with the Gram-Schmidt coefficients.

In floating point, a basis made from the last two rows alone loses
orthogonality, and eigenvalues come back as false copies. So every new vector
is orthogonalised against the whole basis, twice ("twice is enough", Parlett
1998, section 6.9).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from induction_jax.devices.limits import sequential_on_cpu
from induction_jax.spectra.operators import Operator
from induction_jax.types import Array, PyTree

Product = Callable[[Array], Array]  # [P'] -> [P'], packed
_Removal = tuple[Array, Array]  # the first two fields of a Remainder

# Rows that Gram-Schmidt processes at a time: few enough to leave most of the
# empty rows unread, and to stay in cache between their two uses.
BLOCK = 8
# Least number of terms that a product of long vectors adds up in one go. A CPU
# adds them one after another: with P = 1e6 terms at a time, rows were
# orthogonal only to 2e-4.
CHUNK = 2**16


class VectorSharding(NamedTuple):
  """How the vectors of a basis are distributed over devices.

  A packed vector [P'] is a vector [P] padded with zeros to a multiple of
  n_shards. Zeros change no inner product and no norm, so the algorithms work
  on packed vectors without knowing about the padding.

  Attributes:
    n_shards: number of equal parts.
    shard: [..., P'] -> the same array, its last axis sharded.
    gather: [..., P'] -> the same array, replicated.
  """

  n_shards: int
  shard: Callable[[Array], Array]
  gather: Callable[[Array], Array]

  def pack(self, vector: Array) -> Array:
    """[P] -> [P'], sharded."""
    missing = -vector.size % self.n_shards
    return self.shard(jnp.pad(vector, (0, missing)) if missing else vector)

  def unpack(self, vectors: Array, size: int) -> Array:
    """[..., P'] -> [..., P], replicated."""
    gathered = self.gather(vectors)
    return gathered if gathered.shape[-1] == size else gathered[..., :size]


def _identity(vectors: Array) -> Array:
  return vectors


UNSHARDED = VectorSharding(n_shards=1, shard=_identity, gather=_identity)


class Krylov(NamedTuple):
  """A basis with its projected matrix; its memory is M * P numbers."""

  basis: Array  # [M rounded up to BLOCK, P'], zero from row `order` on
  projected: Array  # [M, M], zero from row and column `order` on
  direction: Array  # [P'], unit, the next row
  residual: Array  # [], the norm of r
  order: Array  # [], rows filled, int32
  products: Array  # [], products so far, int32


class Remainder(NamedTuple):
  """A vector without its components along the rows of a basis."""

  vector: Array  # [P']
  removed: Array  # one coefficient for each row, summed over all passes
  norm: Array  # of the vector


def init_krylov(
  start: Array, max_order: int, sharding: VectorSharding = UNSHARDED
) -> Krylov:
  """An empty basis of up to `max_order` rows that begins at `start` [P]."""
  rows = -(-max_order // BLOCK) * BLOCK
  direction = normalise(sharding.pack(start))
  return Krylov(
    basis=sharding.shard(jnp.zeros((rows, direction.size), start.dtype)),
    projected=jnp.zeros((max_order, max_order), start.dtype),
    direction=direction,
    residual=jnp.zeros((), start.dtype),
    order=jnp.zeros((), jnp.int32),
    products=jnp.zeros((), jnp.int32),
  )


def make_product(
  operator: Operator,
  unravel: Callable[[Array], PyTree],
  size: int,
  sharding: VectorSharding,
) -> Product:
  """The operator on packed vectors, from `unravel`, [P] to a pytree."""

  def product(vector: Array) -> Array:
    vector = sharding.unpack(vector, size)
    return sharding.pack(ravel_pytree(operator(unravel(vector)))[0])

  return product


def extend(
  product: Product,
  krylov: Krylov,
  spare: Array,
  sharding: VectorSharding = UNSHARDED,
) -> Krylov:
  """Adds one row to the basis, at the cost of one product.

  If the space is invariant (r = 0), the next direction is `spare` rolled by
  the number of products. A fresh draw would need a key, and under vmap a key
  that is used in one branch of a cond counts as used twice.

  Args:
    product: v -> A v on packed vectors.
    krylov: the basis so far, with at least one row free.
    spare: [P], a random vector independent of the start.
    sharding: the sharding of the basis.

  Returns:
    The larger basis. A product that is not finite makes `residual` not finite.
  """
  j = krylov.order
  basis = sharding.shard(krylov.basis.at[j].set(krylov.direction))
  product_of_last = product(krylov.direction)
  rest = orthogonalise(product_of_last, basis, j + 1, sharding.n_shards)
  removed = rest.removed[: krylov.projected.shape[0]]
  projected = krylov.projected.at[j].set(removed).at[:, j].set(removed)
  rounding = jnp.finfo(removed.dtype).eps * jnp.max(jnp.abs(projected))

  def use_spare() -> Remainder:
    fresh = normalise(sharding.pack(jnp.roll(spare, krylov.products)))
    return orthogonalise(fresh, basis, j + 1, sharding.n_shards)

  is_invariant = rest.norm <= rounding
  new = jax.lax.cond(is_invariant, use_spare, lambda: rest)
  return Krylov(
    basis=basis,
    projected=projected,
    direction=sharding.shard(new.vector / new.norm),
    residual=jnp.where(is_invariant, 0, rest.norm),
    order=j + 1,
    products=krylov.products + 1,
  )


def orthogonalise(
  vector: Array, basis: Array, order: Array, n_shards: int = 1
) -> Remainder:
  """Gram-Schmidt against the first `order` rows, in two or three passes.

  The first pass covers only the last two rows, along which a product has all
  its components up to rounding (the three-term recurrence). The second covers
  all rows, and is repeated if it removed much of the vector (Daniel, Gragg,
  Kaufman and Stewart 1976), as it does after a restart. Within a block of rows
  Gram-Schmidt is classical, so that each block is read once.
  """

  def remove(rest: _Removal, first: Array, rows: int) -> _Removal:
    vector, removed = rest
    block = jax.lax.dynamic_slice_in_dim(basis, first, rows)
    coefficients = inner(block, vector, n_shards)
    # Not a scatter, which XLA executes entry by entry.
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
  removed_much = rest.norm < norm(local[0]) / 2**0.5
  return jax.lax.cond(removed_much, lambda: remove_all(rest[:2]), lambda: rest)


def inner(rows: Array, vector: Array, n_shards: int = 1) -> Array:
  """Rows @ vector [rows], in at most 32 partial sums for each shard."""
  if n_shards > 1:  # each shard by itself: only the sums are communicated
    each = jax.vmap(inner, (1, 0))(
      rows.reshape(len(rows), n_shards, -1), vector.reshape(n_shards, -1)
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
  """The unit vector along `vector`; nan if that is zero."""
  return vector / norm(vector)


def norm(vector: Array) -> Array:
  """Euclidean norm, also where squared entries leave the range of float32."""
  largest = jnp.max(jnp.abs(vector))
  scale = jnp.where(largest > 0, largest, 1)
  return scale * jnp.linalg.norm(vector / scale)


def dot(a: Array, b: Array) -> Array:
  """Matrix product in full float32 (a GPU's default is TF32)."""
  return jnp.dot(a, b, precision="highest")


def eigh(matrix: Array) -> tuple[Array, Array]:
  """Eigenvalues [M], ascending, and eigenvectors [M, M] in columns.

  Under vmap a CPU solves one matrix after another (see devices.limits).
  """
  return _eigh(matrix)


_eigh = sequential_on_cpu(lambda matrix: tuple(jnp.linalg.eigh(matrix)))
