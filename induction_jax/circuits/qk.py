"""QK circuits: which tokens a head makes attend to which.

Of the head alone W_Q W_K^T, [D, D]; through the embeddings
W_E W_Q W_K^T W_E^T, [V, V], from the query's token to the scores of keys. Both
of rank K, and neither is formed. The content part alone: positions in the
residual or in queries and keys are left out, and rotary ones count at offset 0
(at another after `turn_queries`). Smeared keys scale it, which no score sees.
"""

import jax
import jax.numpy as jnp

from induction_jax.circuits.own_token import own_token_fraction
from induction_jax.circuits.weights import CircuitWeights
from induction_jax.types import Array


@jax.default_matmul_precision("highest")
def matching_matrices(weights: CircuitWeights) -> Array:  # [L, H, K, K]
  """Matrices with the non-zero eigenvalues of W_E W_Q W_K^T W_E^T, [V, V].

  Positive ones: tokens attend to copies of themselves. Cost: V D^2 once, then
  D^2 K for each head.
  """
  gram = weights.w_e.T @ weights.w_e  # [D, D]
  query = jnp.einsum("de,lhek->lhdk", gram, weights.w_q)
  return jnp.einsum("lhdk,lhdj->lhkj", weights.w_k, query)


@jax.default_matmul_precision("highest")
def qk_matrices(weights: CircuitWeights) -> Array:  # [L, H, K, K]
  """Matrices with the non-zero eigenvalues of W_Q W_K^T, [D, D].

  Positive ones: positions attend to residuals like their own. They do not
  depend on the residual's basis, but say nothing of tokens.
  """
  return jnp.einsum("lhdk,lhdj->lhkj", weights.w_k, weights.w_q)


def matched_fraction(weights: CircuitWeights, k: int) -> Array:  # [L, H]
  """Query tokens whose own key is among the k that they score highest.

  Null for random circuits: k / V, exact. Ties count against the token. Cost:
  V^2 K for each head.
  """
  w_e = weights.w_e
  return own_token_fraction(w_e, weights.w_q, weights.w_k, w_e, k)
