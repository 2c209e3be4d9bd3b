"""Curvature by blocks of parameters: one head's circuit, an embedding, norms.

A partition assigns every parameter to exactly one block. H_ab is the submatrix
with rows in block a and columns in block b. A diagonal block is the curvature
of the loss in the parameters of one block alone; an off-diagonal block is the
coupling of two.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from induction_jax.spectra.eigenpairs import Eigenpairs
from induction_jax.spectra.krylov import UNSHARDED, VectorSharding
from induction_jax.spectra.lanczos import lanczos
from induction_jax.spectra.operators import Operator
from induction_jax.spectra.trace import check_probes
from induction_jax.types import Array, Key, PyTree


class Partition(NamedTuple):
  """The block of every parameter. Static: numpy, never traced.

  A compiled program that uses a partition contains its ids as a constant of
  4 P bytes.
  """

  names: tuple[str, ...]
  ids: np.ndarray  # [P] int32, in the order of ravel_pytree

  @property
  def sizes(self) -> np.ndarray:
    """Parameters in each block, [n_blocks]."""
    return np.bincount(self.ids, minlength=len(self.names))


class Extremes(NamedTuple):
  """One extreme eigenvalue of every diagonal block."""

  values: Array  # [n_blocks]
  residuals: Array  # [n_blocks], residual bounds
  converged: Array  # [n_blocks] bool


class BlockExtremes(NamedTuple):
  """Largest and smallest eigenvalue of every diagonal block."""

  top: Extremes
  bottom: Extremes
  products: Array  # [n_blocks], number of products used


class BlockNorms(NamedTuple):
  """||H_ab||_F of every pair of blocks, symmetric in (a, b)."""

  norms: Array  # [n_blocks, n_blocks]
  errors: Array  # [n_blocks, n_blocks], their standard errors


def make_partition(
  names: Sequence[str], ids: PyTree, like: PyTree
) -> Partition:
  """A partition, checked: every parameter in one block, and no block empty.

  Args:
    names: of the blocks, in the order of their ids.
    ids: a pytree like `like` of integers, the block of every parameter from 0.
      Each leaf must broadcast to the leaf of `like`: with one block per head,
      the leaf for w_q [L, H, D, K] is [L, H, 1, 1].
    like: the parameters, or their shapes.

  Raises:
    ValueError: if an id does not broadcast or is out of range, a block is
      empty, or a name is repeated.
    TypeError: if ids are not integers.
  """

  def spread(path: tuple, x: PyTree, ids: PyTree) -> np.ndarray:
    where, ids = jax.tree_util.keystr(path), np.asarray(ids)
    if not np.issubdtype(ids.dtype, np.integer):
      raise TypeError(f"ids{where} must be integers, got {ids.dtype}")
    if ids.size and not 0 <= ids.min() <= ids.max() < len(names):
      raise ValueError(
        f"ids{where} must be from 0 to {len(names) - 1}, one for each name, "
        f"got {ids.min()} to {ids.max()}"
      )
    try:
      return np.broadcast_to(ids, x.shape).ravel()
    except ValueError as error:
      raise ValueError(
        f"ids{where} must broadcast to {x.shape}, got {ids.shape}"
      ) from error

  leaves = jax.tree.leaves(jax.tree_util.tree_map_with_path(spread, like, ids))
  partition = Partition(tuple(names), np.concatenate(leaves).astype(np.int32))
  if len(set(names)) < len(names):
    raise ValueError(f"names must differ, got {list(names)}")
  empty = [name for name, n in zip(names, partition.sizes) if not n]
  if empty:
    raise ValueError(f"every block must have parameters, got none in {empty}")
  return partition


def mass(vectors: PyTree, partition: Partition) -> Array:
  """Share of each vector's squared norm in each block.

  Null: block size / P, the mean over vectors of uniformly random direction.

  Args:
    vectors: k pytrees, leaves [k, ...], such as eigenvectors.
    partition: of the parameters.

  Returns:
    [k, n_blocks], rows summing to 1; nan for a zero vector.
  """
  flat = jax.vmap(lambda v: ravel_pytree(v)[0])(vectors)  # [k, P]
  squares = jax.vmap(lambda v: _square_norms(v, partition))(flat)
  return squares / jnp.sum(squares, axis=1, keepdims=True)


def block_extremes(
  operator: Operator,
  like: PyTree,
  partition: Partition,
  key: Key,
  *,
  max_order: int,
  tolerance: float,
  sharding: VectorSharding = UNSHARDED,
) -> BlockExtremes:
  """Both extreme eigenvalues of every diagonal block, by Lanczos on each.

  Lanczos runs on vectors of the block's own size: its basis is [max_order,
  block size], and parameters outside the block add no zero eigenvalues. One
  program is compiled for each distinct block size, and runs on the blocks of
  that size in turn. A product with a block costs a product with the operator.

  Args:
    operator: symmetric, on pytrees like `like`.
    like: a pytree with the shapes and the one floating dtype of v.
    partition: of the parameters.
    key: for the random starts.
    max_order: the largest number of products for one block, at least 2.
    tolerance: relative residual at which an eigenvalue counts as converged.
    sharding: of the vectors of a block's basis.
  """
  flat, unravel = ravel_pytree(like)

  def extremes(block: tuple[Array, Key]) -> BlockExtremes:
    indices, key = block

    def product(vector: Array) -> Array:
      placed = jnp.zeros_like(flat).at[indices].set(vector)
      return ravel_pytree(operator(unravel(placed)))[0][indices]

    spectrum = lanczos(
      product,
      jnp.zeros(indices.shape, flat.dtype),
      key,
      k_top=1,
      k_bottom=1,
      max_order=max_order,
      tolerance=tolerance,
      sharding=sharding,
    )

    def first(pairs: Eigenpairs) -> Extremes:
      return Extremes(pairs.values[0], pairs.residuals[0], pairs.converged[0])

    return BlockExtremes(
      first(spectrum.top), first(spectrum.bottom), spectrum.products
    )

  sizes, found, order = partition.sizes, [], []
  for size in np.unique(sizes):
    group = np.flatnonzero(sizes == size)
    indices = np.stack([np.flatnonzero(partition.ids == b) for b in group])
    keys = jax.random.split(jax.random.fold_in(key, size), len(group))
    found.append(jax.lax.map(extremes, (jnp.asarray(indices), keys)))
    order.append(group)
  restore = np.argsort(np.concatenate(order))
  return jax.tree.map(lambda *x: jnp.concatenate(x)[restore], *found)


def block_norms(
  operator: Operator,
  like: PyTree,
  partition: Partition,
  key: Key,
  *,
  probes: int,
) -> BlockNorms:
  """||H_ab||_F for every pair of blocks, from random probe vectors.

  For z of independent random signs on block b and zero elsewhere,
  E||(H z)_a||^2 = ||H_ab||_F^2 (Hutchinson 1990): one product serves all pairs
  with b. H_ab and H_ba have the same norm, so their squares are averaged, which
  is unbiased and has the standard error of two independent means. The standard
  error of the norm follows by the delta method, se(norm^2) / (2 norm); where it
  is not well below the norm it is unreliable and the norm is biased low. Costs
  n_blocks * probes products.

  Args:
    operator: symmetric, on pytrees like `like`.
    like: a pytree with the shapes and the one floating dtype of v.
    partition: of the parameters.
    key: for the probe vectors.
    probes: the number of probe vectors for each block, at least 2.

  Raises:
    ValueError: if probes is below 2.
  """
  check_probes(probes)
  flat, unravel = ravel_pytree(like)
  n_blocks = len(partition.names)

  def sample(block: tuple[Array, Key]) -> Array:  # [n_blocks]
    b, key = block
    signs = jax.random.rademacher(key, flat.shape, flat.dtype)
    z = jnp.where(partition.ids == b, signs, 0)
    return _square_norms(ravel_pytree(operator(unravel(z)))[0], partition)

  columns = jnp.repeat(jnp.arange(n_blocks), probes)
  keys = jax.random.split(key, n_blocks * probes)
  samples = jax.lax.map(sample, (columns, keys))
  samples = samples.reshape(n_blocks, probes, n_blocks)  # [b, probe, a]
  mean = jnp.mean(samples, axis=1)
  variance = jnp.var(samples, axis=1, ddof=1) / probes
  mean, variance = (mean + mean.T) / 2, (variance + variance.T) / 4
  # A diagonal block has one mean, not two.
  variance = jnp.where(np.eye(n_blocks, dtype=bool), 2 * variance, variance)
  norms = jnp.sqrt(mean)
  errors = jnp.sqrt(variance) / jnp.where(norms > 0, 2 * norms, 1)
  return BlockNorms(norms, errors)


def _square_norms(vector: Array, partition: Partition) -> Array:
  """[P] -> [n_blocks]."""
  return jax.ops.segment_sum(
    vector**2, partition.ids, num_segments=len(partition.names)
  )
