"""QK circuits: which tokens a head makes attend to which."""

import jax.numpy as jnp

from induction_jax.circuits.weights import CircuitWeights
from induction_jax.types import Array


def matching_matrices(weights: CircuitWeights) -> Array:  # [L, H, K, K]
  """Matrices with the non-zero eigenvalues of W_E W_Q W_K^T W_E^T, [V, V].

  The content part of the circuit; with rotary positions, at offset 0.
  Positive eigenvalues: tokens attend to copies of themselves.
  """
  query = jnp.einsum("vd,lhdk->lhvk", weights.w_e, weights.w_q)
  key = jnp.einsum("vd,lhdk->lhvk", weights.w_e, weights.w_k)
  return jnp.einsum("lhvk,lhvj->lhkj", key, query)
