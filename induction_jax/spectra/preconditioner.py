"""The curvature an optimiser sees: its preconditioner and stability edge.

An optimiser that moves by -eta P^{-1} m, with m an exponential moving average
of gradients at decay beta, is unstable along directions in which P^{-1} H has
an eigenvalue above the edge (2 + 2 beta) / ((1 - beta) eta): 38 / eta at
beta = 0.9 (Cohen et al. 2022, arXiv 2207.14484). P^{-1} H has the eigenvalues
of the symmetric P^{-1/2} H P^{-1/2}.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from induction_jax.types import Array, PyTree


class Preconditioner(NamedTuple):
  """A diagonal P, as what the spectrum needs of it."""

  inverse_sqrt: PyTree  # P^{-1/2}
  edge: Array  # the eigenvalue above which the optimiser is unstable


def adam_preconditioner(
  opt_state: PyTree, learning_rate: Array, b1: float, b2: float, eps: float
) -> Preconditioner:
  """P = (1 - b1^t) (sqrt(nu / (1 - b2^t)) + eps), with t the updates done.

  Weight decay, clipping and eps_root are left out of P. P has no meaning
  before the first update.

  Args:
    opt_state: an optax state with one Adam or AdamW in it.
    learning_rate: eta at this step.
    b1: decay of the gradient's average.
    b2: decay of the squared gradient's average.
    eps: the term added to the root.

  Raises:
    ValueError: if there is no Adam in it, or more than one, or one of some
      parameters only.
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
  # A schedule keeps a count too; both count the same updates.
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
  """P = 1 for SGD with heavy-ball momentum, m <- momentum m + g.

  The edge is (2 + 2 momentum) / eta; 2 / eta without momentum.
  """
  edge = (2 + 2 * momentum) / learning_rate
  return Preconditioner(jax.tree.map(jnp.ones_like, params), edge)
