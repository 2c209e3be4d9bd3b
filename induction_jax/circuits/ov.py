"""OV circuits: what a head writes when it attends to a token.

Of the head alone W_V W_O, [D, D]; through the embeddings W_E W_V W_O W_U,
[V, V], from the token attended to to the logits it raises. Both of rank K, and
neither is formed.
"""

import jax
import jax.numpy as jnp

from induction_jax.circuits.own_token import own_token_fraction
from induction_jax.circuits.weights import CircuitWeights
from induction_jax.types import Array


@jax.default_matmul_precision("highest")
def copying_matrices(weights: CircuitWeights) -> Array:  # [L, H, K, K]
  """Matrices with the non-zero eigenvalues of W_E W_V W_O W_U, [V, V].

  AB and BA share their non-zero eigenvalues. Positive ones: attending to a
  token raises its own logit. Cost: V D^2 once, then D^2 K for each head.
  """
  residual = weights.w_u @ weights.w_e  # [D, D]
  write = jnp.einsum("lhkd,de->lhke", weights.w_o, residual)
  return jnp.einsum("lhke,lhej->lhkj", write, weights.w_v)


@jax.default_matmul_precision("highest")
def ov_matrices(weights: CircuitWeights) -> Array:  # [L, H, K, K]
  """Matrices with the non-zero eigenvalues of W_V W_O, [D, D].

  Positive ones: the head adds to the residual what it reads there. They do
  not depend on the residual's basis, but say nothing of tokens.
  """
  return weights.w_o @ weights.w_v


def copied_fraction(weights: CircuitWeights, k: int) -> Array:  # [L, H]
  """Tokens whose own logit is among the k that attending to them raises most.

  What the copying score, a ratio of sums, cannot tell: a few large positive
  eigenvalues may copy few tokens (Wang et al. 2022, arXiv 2211.00593, count
  names in the top 5 likewise). Null for random circuits: k / V, exact. Ties
  count against the token. Cost: V^2 K for each head.
  """
  write = jnp.swapaxes(weights.w_o, -1, -2)
  return own_token_fraction(weights.w_e, weights.w_v, write, weights.w_u.T, k)
