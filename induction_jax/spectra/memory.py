"""What fits in memory: a linear map or not, and how large a Lanczos basis.

Decided from shapes alone, before anything is computed, so that the answer is
the same on every machine and can be written down.
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
  """How products are to be made, and the memory that goes with it."""

  linear_map: bool  # built once and kept, or streamed
  micro_batch_size: int  # examples
  bytes: int  # of the linear map of one micro-batch

  def __str__(self) -> str:
    if self.linear_map:
      return "linear map"
    return f"streamed, micro-batch of {self.micro_batch_size}"


def linear_map_bytes(operator: Operator, like: PyTree) -> int:
  """Bytes that `linearize(operator, like)` keeps resident, from shapes alone.

  The sum of its leaves, as a program returns them: an array that is also an
  input (a parameter, say) counts, since a program returns it as a copy.

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
  """The linear map of the whole batch where it fits, else streamed.

  Streamed, the micro-batch is the largest divisor of the batch whose own
  linear map would fit: a product's intermediates are about as large. Where
  not even one example fits the plan is one example all the same, and its
  `bytes` say so. A deterministic function of shapes; costs a trace for each
  divisor tried.

  Args:
    make_operator: (params, data) -> operator, the streamed one:
      `functools.partial(hessian, loss)`.
    params: parameters or their shapes (jax.eval_shape).
    batch: the batch or its shapes; leaves share a leading axis of B examples.
    memory: bytes that the linear map, or one micro-batch, may take; of each
      of those who share it, the parameters in it counted as shared as well.
    shared_by: how many share a micro-batch equally.

  Raises:
    ValueError: if `memory` is not positive, or the batch cannot be shared so.
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
    whole = _micro_batch_bytes(make_operator, params, batch, size)
    needed = -(-whole // shared_by)
    if needed <= memory:
      break
  return ProductPlan(size == examples and needed <= memory, size, needed)


def plan_basis(
  like: PyTree, *, wanted: int, max_order: int, memory: int
) -> int:
  """Rows of Lanczos' basis: all of max_order where they fit, else fewer.

  With fewer Lanczos restarts, which costs products: about half as many again
  at the least basis of max(2 k, k + 15) rows, k pairs being wanted (Wu and
  Simon 2000 restart from such a one). No fewer than that are planned, whether
  they fit or not.

  Args:
    like: a pytree with the shapes and dtypes of v.
    wanted: k, pairs at both ends together.
    max_order: the most products.
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
