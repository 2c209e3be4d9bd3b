"""Planning for memory: linear maps or streaming, and the size of a basis.

Plans follow from shapes alone, before anything is computed, so that they are
the same on every machine and can be recorded.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from induction_jax.spectra.operators import (
  MicroBatches,
  Operator,
  linearize,
  split_batch,
)
from induction_jax.types import PyTree


class ProductPlan(NamedTuple):
  """How products are computed, and the memory that this takes.

  Attributes:
    linear_map: true if the operator is linearised once on the whole batch,
      false if every product streams over micro-batches.
    micro_batch_size: examples in a micro-batch.
    bytes: of the linear map of one micro-batch.
  """

  linear_map: bool
  micro_batch_size: int
  bytes: int

  def __str__(self) -> str:
    if self.linear_map:
      return "linear map"
    return f"streamed, micro-batch of {self.micro_batch_size}"


def linear_map_bytes(operator: Operator, like: PyTree) -> int:
  """Bytes that `linearize(operator, like)` keeps in memory, from shapes alone.

  The sum over the leaves of the linear map as a jitted program returns it. A
  leaf that is also an input, such as a parameter, counts: the program returns a
  copy of it.

  Args:
    operator: a Partial; its arrays may be jax.ShapeDtypeStructs.
    like: a pytree with the shapes and dtypes of v.
  """
  linear_map = jax.eval_shape(linearize, operator, like)
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(linear_map))


def plan_products(
  make_operator: Callable[[PyTree, MicroBatches], Operator],
  params: PyTree,
  batch: PyTree,
  *,
  memory: int,
  shared_by: int = 1,
) -> ProductPlan:
  """Plans a linear map of the whole batch if it fits, else streaming.

  For streaming the micro-batch is the largest divisor of the batch whose own
  linear map would fit, since the intermediates of a product are about as large.
  If not even one example fits, the plan is one example all the same, and its
  `bytes` exceed `memory`. Costs one trace for each divisor tried.

  Args:
    make_operator: (params, data) -> the streamed operator, such as
      `functools.partial(hessian, loss)`.
    params: parameters or their shapes (jax.eval_shape).
    batch: the batch or its shapes; leaves share a leading axis of B examples.
    memory: bytes on each device that the linear map, or one micro-batch, may
      take. Parameters in it count as if they were sharded too.
    shared_by: number of devices that share a micro-batch equally.

  Raises:
    ValueError: if `memory` is not positive, or `shared_by` does not divide B.
  """
  if memory <= 0:
    raise ValueError(f"memory must be positive, got {memory}")
  examples = jax.tree.leaves(batch)[0].shape[0]
  if examples % shared_by:
    raise ValueError(
      f"shared_by must divide the {examples} examples, got {shared_by}"
    )
  shares = examples // shared_by
  divisors = [n for n in range(1, shares + 1) if shares % n == 0]
  for size in (shared_by * n for n in reversed(divisors)):
    on_all = _micro_batch_bytes(make_operator, params, batch, size)
    needed = -(-on_all // shared_by)
    if needed <= memory:
      break
  return ProductPlan(size == examples and needed <= memory, size, needed)


def plan_basis(
  like: PyTree, *, wanted: int, max_order: int, memory: int
) -> int:
  """Rows of Lanczos' basis: max_order if they fit, else fewer.

  With fewer rows Lanczos restarts, which costs products: about half as many
  again with the smallest basis planned here, of max(2 k, k + 15) rows for k
  pairs (the size of Wu and Simon 2000). That many are planned even if they do
  not fit.

  Args:
    like: a pytree with the shapes and dtypes of v.
    wanted: k, pairs at both ends together.
    max_order: the largest number of products.
    memory: bytes that the basis may take.
  """
  leaves = jax.tree.leaves(like)
  row = sum(x.size * x.dtype.itemsize for x in leaves)
  least = max(2 * wanted, wanted + 15)
  return min(max_order, max(memory // row, least))


def _micro_batch_bytes(
  make_operator: Callable[[PyTree, MicroBatches], Operator],
  params: PyTree,
  batch: PyTree,
  size: int,
) -> int:
  def cut(batch: PyTree) -> MicroBatches:
    micro_batch = jax.tree.map(lambda x: x[:size], batch)
    return split_batch(micro_batch, jnp.ones(size), size)

  data = jax.eval_shape(cut, batch)
  operator = jax.eval_shape(make_operator, params, data)
  return linear_map_bytes(operator, params)
