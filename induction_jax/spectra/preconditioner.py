"""The preconditioner of an optimiser and the edge of its stability.

An optimiser that updates by -eta P^{-1} m, with m an exponential moving average
of gradients at decay beta, is unstable along directions in which P^{-1} H has
an eigenvalue above the edge (2 + 2 beta) / ((1 - beta) eta), which is 38 / eta
at beta = 0.9 (Cohen et al. 2022, arXiv 2207.14484). P^{-1} H has the
eigenvalues of the symmetric P^{-1/2} H P^{-1/2}, which is
`rescale(hessian, inverse_sqrt)`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from induction_jax.types import Array, PyTree


class Preconditioner(NamedTuple):
  """A diagonal preconditioner P and the optimiser's stability edge."""

  inverse_sqrt: PyTree  # P^{-1/2}
  edge: Array  # the eigenvalue above which the optimiser is unstable


def adam_preconditioner(
  opt_state: PyTree, learning_rate: Array, b1: float, b2: float, eps: float
) -> Preconditioner:
  """P = (1 - b1^t) (sqrt(nu / (1 - b2^t)) + eps) after t updates.

  P does not contain weight decay, clipping or eps_root. It has no meaning
  before the first update, where nu = 0.

  Args:
    opt_state: an optax state that contains exactly one Adam or AdamW.
    learning_rate: eta at this step.
    b1: decay of the gradient's average.
    b2: decay of the squared gradient's average.
    eps: the term added to the root.

  Raises:
    ValueError: if opt_state contains no Adam, more than one, or one that
      covers only some of the parameters.
  """
  found = optax.tree.get_all_with_path(opt_state, "nu")
  if not found:
    raise ValueError(
      "opt_state must hold an Adam or AdamW, got one without second moments: "
      "for SGD there is sgd_preconditioner"
    )
  nu = found[0][1]
  masked = any(
    isinstance(x, optax.MaskedNode)
    for x in jax.tree.leaves(
      nu, is_leaf=lambda x: isinstance(x, optax.MaskedNode)
    )
  )
  if len(found) > 1 or masked:
    raise ValueError(
      "opt_state must hold one Adam or AdamW of all parameters, got "
      f"{len(found)}{', of some parameters only' if masked else ''}"
    )
  # A schedule has a count as well; both count the same updates.
  count = optax.tree.get_all_with_path(opt_state, "count")[0][1]
  count = count.astype(jnp.result_type(float))
  correct_mean, correct_square = 1 - b1**count, 1 - b2**count

  def inverse_sqrt(nu: Array) -> Array:
    return (correct_mean * (jnp.sqrt(nu / correct_square) + eps)) ** -0.5

  edge = (2 + 2 * b1) / ((1 - b1) * learning_rate)
  return Preconditioner(jax.tree.map(inverse_sqrt, nu), edge)


def sgd_preconditioner(
  params: PyTree, learning_rate: Array, momentum: float
) -> Preconditioner:
  """P = 1, for SGD with heavy-ball momentum, m <- momentum m + g.

  The edge is (2 + 2 momentum) / eta.
  """
  edge = (2 + 2 * momentum) / learning_rate
  return Preconditioner(jax.tree.map(jnp.ones_like, params), edge)
