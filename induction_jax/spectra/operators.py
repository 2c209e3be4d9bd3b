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

from induction_jax.spectra.checks import (
  check_dtype,
  check_product,
  check_scalar,
)
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
      what counts (tokens, say): micro-batches are weighted by their share,
      and one in which nothing counts adds nothing, whatever its loss is.
      Where nothing counts at all every operator is zero.
    size: examples in a micro-batch; must divide B.

  Raises:
    ValueError: if `size` does not divide B, or a leaf has not B examples.
  """
  examples = counts.shape[0]
  if size < 1 or examples % size:
    raise ValueError(
      "size must be at least 1 and divide the number of examples, got "
      f"size={size}, examples={examples}"
    )
  for x in jax.tree.leaves(batch):
    if jnp.ndim(x) < 1 or x.shape[0] != examples:
      raise ValueError(
        "every leaf of the batch must have a leading axis of as many examples "
        f"as counts has, {examples}, got shape {jnp.shape(x)}"
      )
  batches = jax.tree.map(
    lambda x: x.reshape(examples // size, size, *x.shape[1:]), batch
  )
  share = counts.reshape(-1, size).sum(axis=1)
  total = share.sum()
  return MicroBatches(batches, share / jnp.where(total > 0, total, 1))


def gradient(loss: Loss, params: PyTree, data: MicroBatches) -> PyTree:
  """Gradient of the whole batch's loss.

  Raises:
    TypeError: if the loss is not a scalar.
  """
  check_scalar("loss", loss, params, one_batch(data))
  return accumulate(lambda batch: jax.grad(loss)(params, batch), params, data)


def hessian(loss: Loss, params: PyTree, data: MicroBatches) -> Operator:
  """The Hessian of the whole batch's loss at `params`, streamed.

  A product is `jvp` of `grad` (forward over reverse; Pearlmutter 1994), exact
  up to rounding and signed. It costs about 2 to 3.5 gradients, in the memory
  of one micro-batch.

  Args:
    loss: (params, micro-batch) -> scalar, twice differentiable.
    params: where the Hessian is taken.
    data: the batch, from split_batch.

  Raises:
    TypeError: if the loss is not a scalar, or has something in it that cannot
      be differentiated twice, or the parameters or the batch are of the wrong
      type.
  """
  check_dtype(params)
  check_scalar("loss", loss, params, one_batch(data))
  operator = Partial(partial(_hessian_product, loss), params, data)
  check_product(operator, params)
  return operator


def linearized_hessian(
  loss: Loss, params: PyTree, data: MicroBatches
) -> Operator:
  """The same Hessian as a linear map built once: faster, in more memory.

  See `linearize`; about three times the gradient's memory.
  """
  return linearize(hessian(loss, params, data), params)


def linearize(operator: Operator, like: PyTree) -> Operator:
  """The same operator with all that does not depend on v computed once.

  For an operator that differentiates a network this is the forward pass: a
  product of the Hessian then costs 1.5 to 2 gradients. What it computed stays
  resident for the whole batch; memory.linear_map_bytes says how much. It pays
  only across programs: call this under one jit and pass the result, a pytree,
  to another.

  Args:
    operator: any operator of this package: a Partial, linear in v.
    like: a pytree with the shapes and dtypes of v.
  """
  return jax.linearize(operator, like)[1]


def rescale(operator: Operator, scale: PyTree) -> Operator:
  """D A D for a diagonal D given by `scale`: symmetric where A is."""
  return Partial(_rescaled_product, operator, scale)


def restrict(operator: Operator, mask: PyTree) -> Operator:
  """P A P, with P the projection on the parameters where `mask` is true.

  Its eigenvalues are those of the chosen rows and columns of A, and one zero
  for every parameter left out. To choose by name, make the mask by
  `jax.tree_util.tree_map_with_path`.

  Args:
    operator: A.
    mask: a pytree of booleans like v; each leaf a scalar, or an array of the
      same number of axes as v's leaf, broadcast to it.

  Raises:
    ValueError: at a product, if a mask is not of its leaf's shape.
  """
  return Partial(_restricted_product, operator, mask)


def subtract(a: Operator, b: Operator) -> Operator:
  """A - B; of the Hessian and its Gauss-Newton part, the functional part.

  H - G = E[sum_k (d loss / d output_k) (Hessian of output_k)]: what is left
  of the curvature because the network is not linear in its parameters.
  """
  return Partial(_difference_product, a, b)


def accumulate(
  term: Callable[[PyTree], PyTree], like: PyTree, data: MicroBatches
) -> PyTree:
  """sum_i weights[i] * term(batches[i]), one micro-batch at a time.

  Terms of no weight are left out and not multiplied by zero: the mean over a
  micro-batch in which nothing counts may well be 0 / 0.
  """

  def body(total: PyTree, micro: MicroBatches) -> tuple[PyTree, None]:
    def add(total: Array, value: Array) -> Array:
      weighted = micro.weights.astype(value.dtype) * value
      return total + jnp.where(micro.weights > 0, weighted, 0)

    return jax.tree.map(add, total, term(micro.batches)), None

  with jax.default_matmul_precision("highest"):
    return jax.lax.scan(body, jax.tree.map(jnp.zeros_like, like), data)[0]


def one_batch(data: MicroBatches) -> PyTree:
  """Shapes of one micro-batch.

  Raises:
    TypeError: if `data` is not from split_batch.
  """
  if not isinstance(data, MicroBatches):
    raise TypeError(
      "data must be MicroBatches: cut the batch with split_batch(batch, "
      f"counts, size), got {type(data).__name__}"
    )
  return jax.eval_shape(lambda x: jax.tree.map(lambda x: x[0], x), data.batches)


def _hessian_product(
  loss: Loss, params: PyTree, data: MicroBatches, vector: PyTree
) -> PyTree:
  def micro_product(batch: PyTree) -> PyTree:
    gradient_at = jax.grad(lambda p: loss(p, batch))
    return jax.jvp(gradient_at, (params,), (vector,))[1]

  return accumulate(micro_product, params, data)


def _rescaled_product(
  operator: Operator, scale: PyTree, vector: PyTree
) -> PyTree:
  return _multiply(scale, operator(_multiply(scale, vector)))


def _restricted_product(
  operator: Operator, mask: PyTree, vector: PyTree
) -> PyTree:
  # Chosen and not multiplied: what is left out may not even be finite.
  def choose(keep: Array, x: Array) -> Array:
    if jnp.ndim(keep) not in (0, x.ndim):
      raise ValueError(
        "a mask must be a scalar or have as many axes as its leaf, "
        f"{x.ndim}, got shape {jnp.shape(keep)} for a leaf of shape {x.shape}"
      )
    return jnp.where(jnp.broadcast_to(keep, x.shape), x, 0)

  def project(x: PyTree) -> PyTree:
    return jax.tree.map(choose, mask, x)

  return project(operator(project(vector)))


def _difference_product(a: Operator, b: Operator, vector: PyTree) -> PyTree:
  return jax.tree.map(jnp.subtract, a(vector), b(vector))


def _multiply(a: PyTree, b: PyTree) -> PyTree:
  return jax.tree.map(jnp.multiply, a, b)
