"""OV circuits: what a head writes where it attends.

W_V W_O of the head alone is [D, D]; through the embeddings, W_E W_V W_O W_U is
[V, V], from the token attended to to the logits that it raises. Both have rank
at most K, and neither is formed.
"""

import jax
import jax.numpy as jnp

from induction_jax.circuits.reduction import own_token_fraction
from induction_jax.circuits.weights import CircuitWeights
from induction_jax.types import Array


@jax.default_matmul_precision("highest")
def copying_matrices(weights: CircuitWeights) -> Array:  # [L, H, K, K]
  """Matrices with the non-zero eigenvalues of W_E W_V W_O W_U, [V, V].

  Positive eigenvalues: attending to a token raises its own logit. Cost: V D^2
  once, then D^2 K for each head.
  """
  residual = weights.w_u @ weights.w_e  # [D, D]
  write = jnp.einsum("lhkd,de->lhke", weights.w_o, residual)
  return jnp.einsum("lhke,lhej->lhkj", write, weights.w_v)


@jax.default_matmul_precision("highest")
def ov_matrices(weights: CircuitWeights) -> Array:  # [L, H, K, K]
  """Matrices with the non-zero eigenvalues of W_V W_O, [D, D].

  Positive eigenvalues: the head adds to the residual what it reads there. The
  eigenvalues do not depend on the basis of the residual stream.
  """
  return weights.w_o @ weights.w_v


def copied_fraction(weights: CircuitWeights, k: int) -> Array:  # [L, H]
  """Share of tokens whose own logit is among the k that they raise most.

  It complements the copying score, a ratio of sums in which a few large
  positive eigenvalues may stand for few tokens (Wang et al. 2022, arXiv
  2211.00593, count names in the top 5 in this way). Null: k / V, exact for
  random circuits. Ties count against the token. Cost: V^2 K for each head.
  """
  write = jnp.swapaxes(weights.w_o, -1, -2)
  return own_token_fraction(weights.w_e, weights.w_v, write, weights.w_u.T, k)
