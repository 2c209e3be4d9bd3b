"""Positive semi-definite curvature: Gauss-Newton and the Fisher matrices.

All are J^T C J, with J the Jacobian of a network's outputs and C a small
matrix in output space, which is never formed: a product is a jvp through the
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
  one_batch,
)
from induction_jax.types import Array, PyTree

Predict = Callable[[PyTree, PyTree], PyTree]
Criterion = Callable[[PyTree, PyTree], Array]


def gauss_newton(
  predict: Predict, criterion: Criterion, params: PyTree, data: MicroBatches
) -> Operator:
  """The generalised Gauss-Newton matrix of criterion(predict(params)).

  G = J^T C J with C the criterion's Hessian in the outputs (Schraudolph 2002;
  Martens 2020, arXiv 1412.1193, section 8): the loss Hessian without the
  curvature of the outputs themselves. Positive semi-definite where the
  criterion is convex. G depends on where the network ends and the criterion
  begins; the usual place is the logits. A product costs about as much as one
  of the Hessian, in the memory of one micro-batch.

  Args:
    predict: (params, micro-batch) -> outputs, a pytree of floating arrays.
    criterion: (outputs, micro-batch) -> scalar; the loss is their composition.
    params: where the matrix is taken.
    data: the batch, from split_batch.

  Raises:
    TypeError: if the criterion is not a scalar, or the network or the
      criterion has something in it without the derivatives needed.
  """
  batch = one_batch(data)
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

  g is the gradient of one example's loss with its label drawn from the
  model's distribution. It is the Gauss-Newton matrix wherever the outputs are
  the natural parameters of an exponential family, as logits are of a softmax
  and a mean is of a Gaussian (Martens 2020, arXiv 1412.1193, section 9.2),
  and is computed as such; for any other likelihood the two differ, and this
  is not its Fisher matrix.

  Args:
    predict: (params, micro-batch) -> natural parameters.
    negative_log_likelihood: (outputs, micro-batch) -> its mean, a scalar.
    params: where the matrix is taken.
    data: the batch, from split_batch.

  Raises:
    TypeError: as gauss_newton does.
  """
  return gauss_newton(predict, negative_log_likelihood, params, data)


def empirical_fisher(
  losses: Predict,
  weights: Callable[[PyTree], Array],
  params: PyTree,
  data: MicroBatches,
) -> Operator:
  """sum_i w_i g_i g_i^T over the examples, with the labels of the data.

  g_i is the gradient of example i's loss, and w_i its weight over the sum of
  weights. It differs from the exact Fisher by its labels: only where the
  model's distribution is that of the data do they agree in expectation, and
  it vanishes where every example is fitted (Kunstner, Hennig and Balles 2019,
  arXiv 1905.12558). What an example is matters too: one gradient per token is
  not one per sequence.

  No gradient is formed alone: with J the Jacobian of the vector of losses it
  is J^T diag(w) J, a Gauss-Newton matrix.

  Args:
    losses: (params, micro-batch) -> the loss of every example, any shape.
    weights: micro-batch -> how much each counts, of the same shape; the
      micro-batch's loss is the mean so weighted.
    params: where the matrix is taken.
    data: the batch, from split_batch.

  Raises:
    TypeError: as gauss_newton does.
  """
  return gauss_newton(losses, partial(_half_mean_square, weights), params, data)


def _half_mean_square(
  weights: Callable[[PyTree], Array], losses: Array, batch: PyTree
) -> Array:
  """The criterion whose Hessian is diag(w)."""
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
