"""Positive semi-definite curvature: Gauss-Newton and the Fisher matrices.

Each has the form J^T C J, with J the Jacobian of a network's outputs and C a
small matrix in output space. Neither is formed: a product is a jvp through the
network, a product with C, and a vjp back.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from induction_jax.spectra.checks import check_product, check_scalar
from induction_jax.spectra.operators import (
  MicroBatches,
  Operator,
  accumulate,
  shapes_of_one,
)
from induction_jax.types import Array, PyTree

Predict = Callable[[PyTree, PyTree], PyTree]
Criterion = Callable[[PyTree, PyTree], Array]


def gauss_newton(
  predict: Predict, criterion: Criterion, params: PyTree, data: MicroBatches
) -> Operator:
  """The generalised Gauss-Newton matrix of criterion(predict(params)).

  G = J^T C J with C the Hessian of the criterion in the outputs (Schraudolph
  2002; Martens 2020, arXiv 1412.1193, section 8): the Hessian of the loss
  without the curvature of the outputs themselves. It is positive semi-definite
  if the criterion is convex. G depends on where the network ends and the
  criterion begins; the usual place is the logits. A product costs about as much
  as a Hessian product, in the memory of one micro-batch.

  Args:
    predict: (params, micro-batch) -> outputs, a pytree of floating arrays.
    criterion: (outputs, micro-batch) -> scalar; the loss is their composition.
    params: where the matrix is taken.
    data: the batch, from split_batch.

  Raises:
    TypeError: if the criterion is not a scalar, or the network or the
      criterion contains something without the derivatives needed.
  """
  batch = shapes_of_one(data)
  outputs = jax.eval_shape(predict, params, batch)
  check_scalar("criterion", criterion, outputs, batch)
  product = partial(_gauss_newton_product, predict, criterion)
  operator = Partial(product, params, data)
  check_product(operator, params)
  return operator


def exact_fisher(
  predict: Predict,
  negative_log_likelihood: Criterion,
  params: PyTree,
  data: MicroBatches,
) -> Operator:
  """The Fisher matrix: E[g g^T] over the inputs and the model's own labels.

  g is the gradient of one example's loss, its label drawn from the model's
  distribution. If the outputs are the natural parameters of an exponential
  family, as logits are for a softmax and means for a Gaussian, the Fisher
  matrix equals the Gauss-Newton matrix (Martens 2020, arXiv 1412.1193, section
  9.2), and that is what is computed. For any other likelihood the two differ,
  and the result is not the Fisher matrix.

  Args:
    predict: (params, micro-batch) -> natural parameters.
    negative_log_likelihood: (outputs, micro-batch) -> its mean, a scalar.
    params: where the matrix is taken.
    data: the batch, from split_batch.

  Raises:
    TypeError: if the likelihood is not a scalar, or a derivative is missing.
  """
  return gauss_newton(predict, negative_log_likelihood, params, data)


def empirical_fisher(
  losses: Predict,
  weights: Callable[[PyTree], Array],
  params: PyTree,
  data: MicroBatches,
) -> Operator:
  """sum_i w_i g_i g_i^T over the examples, with the labels of the data.

  g_i is the gradient of example i's loss, and w_i its weight divided by the sum
  of weights. The exact Fisher matrix draws labels from the model instead: the
  two agree in expectation only if the model's distribution is that of the
  data, and the empirical one vanishes where every example is fitted (Kunstner,
  Hennig and Balles 2019, arXiv 1905.12558). It also depends on what counts as
  an example: one gradient per token differs from one per sequence.

  No gradient is formed: with J the Jacobian of the vector of losses the matrix
  is J^T diag(w) J, a Gauss-Newton matrix.

  Args:
    losses: (params, micro-batch) -> the loss of every example, any shape.
    weights: micro-batch -> the weight of every example, same shape; the loss
      of the micro-batch is the weighted mean.
    params: where the matrix is taken.
    data: the batch, from split_batch.

  Raises:
    TypeError: if a derivative of the losses is missing.
  """
  return gauss_newton(losses, partial(_half_mean_square, weights), params, data)


def _half_mean_square(
  weights: Callable[[PyTree], Array], losses: Array, batch: PyTree
) -> Array:
  """The criterion whose Hessian in the losses is diag(w)."""
  share = weights(batch).astype(losses.dtype)
  total = jnp.sum(share)
  return jnp.sum(share * losses**2) / jnp.where(total > 0, total, 1) / 2


def _gauss_newton_product(
  predict: Predict,
  criterion: Criterion,
  params: PyTree,
  data: MicroBatches,
  vector: PyTree,
) -> PyTree:
  def micro_product(batch: PyTree) -> PyTree:
    outputs, push = jax.linearize(lambda p: predict(p, batch), params)
    gradient_at = jax.grad(lambda y: criterion(y, batch))
    curved = jax.jvp(gradient_at, (outputs,), (push(vector),))[1]
    return jax.linear_transpose(push, params)(curved)[0]

  return accumulate(micro_product, params, data)
