"""Linear operators v -> Av on pytrees, from a loss and a batch.

Every operator here is the average of a loss over micro-batches: memory is that
of one micro-batch however large the batch, and the arithmetic is float32 at
the highest matrix precision (a GPU's default, TF32, loses the small
eigenvalues).
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from induction_jax.types import Array, PyTree

# The operators made here are Partials, pytrees themselves: a jitted function
# may return one or take one.
Operator = Callable[[PyTree], PyTree]
Loss = Callable[[PyTree, PyTree], Array]


class MicroBatches(NamedTuple):
  """A batch cut up for accumulation.

  The loss of the whole batch is sum_i weights[i] * loss(params, batches[i]).

  Attributes:
    batches: the batch's pytree, every leaf with a leading micro-batch axis.
    weights: share of each micro-batch in the mean, summing to 1.
  """

  batches: PyTree
  weights: Array  # [n]


def split_batch(batch: PyTree, counts: Array, size: int) -> MicroBatches:
  """Cuts a batch into micro-batches of `size` examples.

  Args:
    batch: a pytree whose leaves share a leading axis of B examples.
    counts: [B], how much each example counts in the loss, which is a mean over
      what counts (tokens, say): micro-batches are weighted by their share.
    size: examples in a micro-batch; must divide B.

  Raises:
    ValueError: if `size` does not divide B.
  """
  examples = counts.shape[0]
  if examples % size:
    raise ValueError(
      f"size must divide the number of examples, got size={size}, "
      f"examples={examples}"
    )
  batches = jax.tree.map(
    lambda x: x.reshape(examples // size, size, *x.shape[1:]), batch
  )
  share = counts.reshape(-1, size).sum(axis=1)
  return MicroBatches(batches, share / share.sum())


def gradient(loss: Loss, params: PyTree, data: MicroBatches) -> PyTree:
  """Gradient of the whole batch's loss."""
  return _accumulate(lambda batch: jax.grad(loss)(params, batch), params, data)


def hessian(loss: Loss, params: PyTree, data: MicroBatches) -> Operator:
  """The Hessian of the whole batch's loss at `params`, streamed.

  A product is `jvp` of `grad` (forward over reverse; Pearlmutter 1994), exact
  up to rounding and signed. It costs about 2 to 3.5 gradients, in the memory
  of one micro-batch.

  Args:
    loss: (params, micro-batch) -> scalar, twice differentiable.
    params: where the Hessian is taken.
    data: the batch, from split_batch.
  """
  return Partial(partial(_hessian_product, loss), params, data)


def linearized_hessian(
  loss: Loss, params: PyTree, data: MicroBatches
) -> Operator:
  """The same Hessian as a linear map built once: faster, in more memory.

  The forward pass is done here and not at each product, which then costs 1.5
  to 2 gradients; its intermediates stay resident for the whole batch (about
  three times the gradient's memory). It pays only across programs: call this
  under one jit and pass the result, a pytree, to another.
  """
  _, product = jax.linearize(lambda p: gradient(loss, p, data), params)
  return product


def rescale(operator: Operator, scale: PyTree) -> Operator:
  """D A D for a diagonal D given by `scale`: symmetric where A is."""
  return Partial(_rescaled_product, operator, scale)


def _hessian_product(
  loss: Loss, params: PyTree, data: MicroBatches, vector: PyTree
) -> PyTree:
  def micro_product(batch: PyTree) -> PyTree:
    gradient_at = jax.grad(lambda p: loss(p, batch))
    return jax.jvp(gradient_at, (params,), (vector,))[1]

  return _accumulate(micro_product, params, data)


def _rescaled_product(
  operator: Operator, scale: PyTree, vector: PyTree
) -> PyTree:
  return _multiply(scale, operator(_multiply(scale, vector)))


def _multiply(a: PyTree, b: PyTree) -> PyTree:
  return jax.tree.map(jnp.multiply, a, b)


def _accumulate(
  term: Callable[[PyTree], PyTree], like: PyTree, data: MicroBatches
) -> PyTree:
  """sum_i weights[i] * term(batches[i]), one micro-batch at a time."""

  def body(total: PyTree, micro: MicroBatches) -> tuple[PyTree, None]:
    value = term(micro.batches)
    return jax.tree.map(
      lambda t, x: t + micro.weights.astype(x.dtype) * x, total, value
    ), None

  with jax.default_matmul_precision("highest"):
    return jax.lax.scan(body, jax.tree.map(jnp.zeros_like, like), data)[0]
