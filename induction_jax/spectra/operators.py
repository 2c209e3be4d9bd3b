"""Linear operators v -> A v on pytrees, made from a loss and a batch.

Operators of a loss are sums over micro-batches, so that their memory is the
memory of one micro-batch however large the batch is. All products are in
float32 at the highest matrix precision: a GPU's default, TF32, loses the small
eigenvalues.
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

# The operators made here are Partials and so pytrees: a jitted function can
# take one as an argument and return one.
Operator = Callable[[PyTree], PyTree]
Loss = Callable[[PyTree, PyTree], Array]


class MicroBatches(NamedTuple):
  """A batch cut into n micro-batches, over which a loss is accumulated.

  The loss of the batch is sum_i weights[i] * loss(params, batches[i]).

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
    counts: [B], the number of terms (tokens, say) that each example
      contributes to the loss, which is a mean over terms. A micro-batch is
      weighted by its share of the terms. One without terms contributes
      nothing, even if its loss is nan, and a batch without terms makes every
      operator zero.
    size: examples in a micro-batch; must divide B.

  Raises:
    ValueError: if `size` does not divide B, or the leading axis of a leaf is
      not B.
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
  """Gradient of the loss of the batch, accumulated over micro-batches.

  Raises:
    TypeError: if the loss is not a scalar.
  """
  check_scalar("loss", loss, params, shapes_of_one(data))
  return accumulate(lambda batch: jax.grad(loss)(params, batch), params, data)


def hessian(loss: Loss, params: PyTree, data: MicroBatches) -> Operator:
  """The Hessian of the loss of the batch at `params`.

  A product is `jvp` of `grad` (forward over reverse; Pearlmutter 1994): exact
  up to rounding, and signed. It costs 2 to 3.5 gradients, in the memory of one
  micro-batch.

  Args:
    loss: (params, micro-batch) -> scalar, twice differentiable.
    params: where the Hessian is taken.
    data: the batch, from split_batch.

  Raises:
    TypeError: if the loss is not a scalar, contains something that cannot be
      differentiated twice, or if the parameters or the batch have the wrong
      type.
  """
  check_dtype(params)
  check_scalar("loss", loss, params, shapes_of_one(data))
  operator = Partial(partial(_hessian_product, loss), params, data)
  check_product(operator, params)
  return operator


def linearize(operator: Operator, like: PyTree) -> Operator:
  """The operator as a linear map: everything independent of v is computed once.

  For an operator that differentiates a network this is the forward pass; a
  Hessian product then costs 1.5 to 2 gradients. The intermediate values of the
  whole batch stay in memory: `linear_map_bytes` returns how many bytes, about
  three times what a gradient needs. It saves time only across jitted programs:
  call it in one and pass the result, a pytree, to another.

  Args:
    operator: a Partial, linear in v, as all operators of this package are.
    like: a pytree with the shapes and dtypes of v.
  """
  return jax.linearize(operator, like)[1]


def rescale(operator: Operator, scale: PyTree) -> Operator:
  """D A D for the diagonal matrix D of `scale`; symmetric if A is."""
  return Partial(_rescaled_product, operator, scale)


def restrict(operator: Operator, mask: PyTree) -> Operator:
  """P A P, with P the projection on the parameters where `mask` is true.

  Its eigenvalues are those of the submatrix of A, and a zero for every
  parameter left out. To choose parameters by name, make the mask by
  `jax.tree_util.tree_map_with_path`.

  Args:
    operator: A.
    mask: a pytree of booleans like v; each leaf a scalar, or an array with as
      many axes as the leaf of v, to which it is broadcast.

  Raises:
    ValueError: at a product, if a mask does not have the shape of its leaf.
  """
  return Partial(_restricted_product, operator, mask)


def subtract(a: Operator, b: Operator) -> Operator:
  """A - B.

  The Hessian minus its Gauss-Newton part is the functional part,
  H - G = E[sum_k (d loss / d output_k) (Hessian of output_k)]: the curvature
  that exists because the network is not linear in its parameters.
  """
  return Partial(_difference_product, a, b)


def accumulate(
  term: Callable[[PyTree], PyTree], like: PyTree, data: MicroBatches
) -> PyTree:
  """sum_i weights[i] * term(batches[i]), one micro-batch at a time.

  Terms of weight zero are left out instead of multiplied by zero: the mean
  over a micro-batch without terms may be 0 / 0.
  """

  def body(total: PyTree, micro: MicroBatches) -> tuple[PyTree, None]:
    def add(total: Array, value: Array) -> Array:
      weighted = micro.weights.astype(value.dtype) * value
      return total + jnp.where(micro.weights > 0, weighted, 0)

    return jax.tree.map(add, total, term(micro.batches)), None

  with jax.default_matmul_precision("highest"):
    return jax.lax.scan(body, jax.tree.map(jnp.zeros_like, like), data)[0]


def shapes_of_one(data: MicroBatches) -> PyTree:
  """Shapes and dtypes of one micro-batch.

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
  # Selected, not multiplied: what is left out may not be finite.
  def select(keep: Array, x: Array) -> Array:
    if jnp.ndim(keep) not in (0, x.ndim):
      raise ValueError(
        "a mask must be a scalar or have as many axes as its leaf, "
        f"{x.ndim}, got shape {jnp.shape(keep)} for a leaf of shape {x.shape}"
      )
    return jnp.where(jnp.broadcast_to(keep, x.shape), x, 0)

  def project(x: PyTree) -> PyTree:
    return jax.tree.map(select, mask, x)

  return project(operator(project(vector)))


def _difference_product(a: Operator, b: Operator, vector: PyTree) -> PyTree:
  return jax.tree.map(jnp.subtract, a(vector), b(vector))


def _multiply(a: PyTree, b: PyTree) -> PyTree:
  return jax.tree.map(jnp.multiply, a, b)
