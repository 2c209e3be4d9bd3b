"""QK circuits: what a head attends to.

W_Q W_K^T of the head alone is [D, D]; through the embeddings, W_E W_Q W_K^T
W_E^T is [V, V], from the query's token to the scores of the keys' tokens. Both
have rank at most K, and neither is formed.

The circuits are those of token content. Positions that are added to the
residual or to queries and keys are left out; rotary positions enter at offset
0, or at another after `turn_queries`. Smeared keys only scale them, which does
not change their scores.
"""

import jax
import jax.numpy as jnp

from induction_jax.circuits.reduction import own_token_fraction
from induction_jax.circuits.weights import CircuitWeights
from induction_jax.types import Array


@jax.default_matmul_precision("highest")
def matching_matrices(weights: CircuitWeights) -> Array:  # [L, H, K, K]
  """Matrices with the non-zero eigenvalues of W_E W_Q W_K^T W_E^T, [V, V].

  Positive eigenvalues: tokens attend to copies of themselves. Cost: V D^2
  once, then D^2 K for each head.
  """
  gram = weights.w_e.T @ weights.w_e  # [D, D]
  query = jnp.einsum("de,lhek->lhdk", gram, weights.w_q)
  return jnp.einsum("lhdk,lhdj->lhkj", weights.w_k, query)


@jax.default_matmul_precision("highest")
def qk_matrices(weights: CircuitWeights) -> Array:  # [L, H, K, K]
  """Matrices with the non-zero eigenvalues of W_Q W_K^T, [D, D].

  Positive eigenvalues: positions attend to residuals like their own. The
  eigenvalues do not depend on the basis of the residual stream.
  """
  return jnp.einsum("lhdk,lhdj->lhkj", weights.w_k, weights.w_q)


def matched_fraction(weights: CircuitWeights, k: int) -> Array:  # [L, H]
  """Share of query tokens whose own key is among their k highest-scored keys.

  Null: k / V, exact for random circuits. Ties count against the token. Cost:
  V^2 K for each head.
  """
  w_e = weights.w_e
  return own_token_fraction(w_e, weights.w_q, weights.w_k, w_e, k)
