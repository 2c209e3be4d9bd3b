"""OV circuits: what a head writes when it attends to a token."""

import jax.numpy as jnp

from induction_jax.circuits.weights import CircuitWeights
from induction_jax.types import Array


def copying_matrices(weights: CircuitWeights) -> Array:  # [L, H, K, K]
  """Matrices with the non-zero eigenvalues of W_E W_V W_O W_U, [V, V].

  AB and BA share their non-zero eigenvalues, so the [V, V] circuit is never
  formed. Positive eigenvalues: attending to a token raises its own logit.
  """
  read = jnp.einsum("vd,lhdk->lhvk", weights.w_e, weights.w_v)
  write = jnp.einsum("lhkd,dv->lhkv", weights.w_o, weights.w_u)
  return jnp.einsum("lhkv,lhvj->lhkj", write, read)
