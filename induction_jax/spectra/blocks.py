"""Curvature by blocks of parameters: one head's circuit, an embedding, norms.

A partition gives every parameter to exactly one block. H_ab is the block of
rows in a and columns in b: diagonal blocks say how curved the loss is in one
block alone, the others how strongly two blocks are coupled.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from induction_jax.spectra.lanczos import Eigenpairs, lanczos
from induction_jax.spectra.layout import WHOLE, Layout
from induction_jax.spectra.operators import Operator
from induction_jax.types import Array, Key, PyTree


class Partition(NamedTuple):
  """Which block every parameter is in. Static: numpy, never traced.

  A program that uses a partition holds its ids as a constant, 4 P bytes.
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
  residuals: Array  # [n_blocks], some eigenvalue of the block lies that near
  converged: Array  # [n_blocks] bool


class BlockExtremes(NamedTuple):
  """Largest and smallest eigenvalue of every diagonal block."""

  top: Extremes
  bottom: Extremes
  products: Array  # [n_blocks], products used for each


class BlockNorms(NamedTuple):
  """Frobenius norms of all blocks, both symmetric in (a, b)."""

  norms: Array  # [n_blocks, n_blocks]
  errors: Array  # [n_blocks, n_blocks], their standard errors


def make_partition(
  names: Sequence[str], ids: PyTree, like: PyTree
) -> Partition:
  """Checks that every parameter is in one block and no block is empty.

  Args:
    names: of the blocks, in the order of their ids.
    ids: a pytree like `like` of integers, each leaf broadcastable to the leaf
      of `like`: the block of every parameter, from 0. For w_q [L, H, D, K]
      with a block per head it is [L, H, 1, 1].
    like: the parameters, or their shapes.

  Raises:
    ValueError: if ids do not fit `like`, name no block, or leave one empty.
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

  Null: sizes / P, from a vector of uniformly random direction.

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
  batch_size: int | None = None,
  layout: Layout = WHOLE,
) -> BlockExtremes:
  """Both extreme eigenvalues of every diagonal block, by Lanczos on each.

  Lanczos sees a block as an operator on vectors of that block's own size: its
  basis is [max_order, block size], and no parameter outside can leave a false
  zero eigenvalue. Blocks of one size are one program, run one after another
  or `batch_size` at a time; as many programs are compiled as there are
  sizes. A product of a block costs one of the whole operator.

  Args:
    operator: symmetric, on pytrees like `like`.
    like: a pytree with the shapes and the one floating dtype of v.
    partition: of the parameters.
    key: for the random starts.
    max_order: most products for one block, at least 2.
    tolerance: relative residual at which an eigenvalue counts as converged.
    batch_size: blocks measured at once, None for one; takes as many times the
      memory of a product.
    layout: of the vectors of a block's basis.
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
      layout=layout,
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
    found.append(
      jax.lax.map(extremes, (jnp.asarray(indices), keys), batch_size=batch_size)
    )
    order.append(group)
  restore = np.argsort(np.concatenate(order))
  return jax.tree.map(lambda *x: jnp.concatenate(x)[restore], *found)


def block_norms(
  operator: Operator,
  like: PyTree,
  partition: Partition,
  key: Key,
  *,
  n_probes: int,
  batch_size: int | None = None,
) -> BlockNorms:
  """||H_ab||_F for every pair of blocks, by random probes.

  For z of independent random signs on block b and zero elsewhere,
  E||(H z)_a||^2 = ||H_ab||_F^2 (Hutchinson 1990): one product serves all
  pairs of b. H_ab and H_ba have one norm, so their squares are averaged; that
  is unbiased, with the standard error of two independent means. Errors of the
  norm follow by the delta method, se(norm^2) / (2 norm), and say little where
  they are not well below the norm, which is then biased low. Costs n_blocks *
  n_probes products.

  Args:
    operator: symmetric, on pytrees like `like`.
    like: a pytree with the shapes and the one floating dtype of v.
    partition: of the parameters.
    key: for the probes.
    n_probes: probes for each block, at least 2.
    batch_size: products taken at once, None for one.

  Raises:
    ValueError: if n_probes is below 2.
  """
  if n_probes < 2:
    raise ValueError(f"n_probes must be at least 2, got {n_probes}")
  flat, unravel = ravel_pytree(like)
  n_blocks = len(partition.names)

  def probe(block: tuple[Array, Key]) -> Array:  # [n_blocks]
    b, key = block
    signs = jax.random.rademacher(key, flat.shape, flat.dtype)
    z = jnp.where(partition.ids == b, signs, 0)
    return _square_norms(ravel_pytree(operator(unravel(z)))[0], partition)

  columns = jnp.repeat(jnp.arange(n_blocks), n_probes)
  keys = jax.random.split(key, n_blocks * n_probes)
  samples = jax.lax.map(probe, (columns, keys), batch_size=batch_size)
  samples = samples.reshape(n_blocks, n_probes, n_blocks)  # [b, probe, a]
  mean = jnp.mean(samples, axis=1)
  variance = jnp.var(samples, axis=1, ddof=1) / n_probes
  mean, variance = (mean + mean.T) / 2, (variance + variance.T) / 4
  # A diagonal block was measured once and not twice.
  variance = jnp.where(np.eye(n_blocks, dtype=bool), 2 * variance, variance)
  norms = jnp.sqrt(mean)
  errors = jnp.sqrt(variance) / jnp.where(norms > 0, 2 * norms, 1)
  return BlockNorms(norms, errors)


def _square_norms(vector: Array, partition: Partition) -> Array:
  """[P] -> [n_blocks]."""
  return jax.ops.segment_sum(
    vector**2, partition.ids, num_segments=len(partition.names)
  )
