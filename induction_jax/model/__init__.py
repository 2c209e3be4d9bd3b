"""The transformer: attention heads one can point at.

Parameters are named for the theory and stacked over layers, so that a head is
an index (layer, head) into them:

  w_e [V, D]              embedding
  w_q, w_k, w_v [L, H, D, K], w_o [L, H, K, D]
  w_u [D, V]              unembedding
  norm_scale [L, D], final_norm_scale [D]      unless norm is "none"
  w_pos [T, D]            positions "shortformer" and "learned"
  smear [L, H]            smeared keys
  w_in [L, D, F], w_out [L, F, D], mlp_norm_scale [L, D]      if d_mlp > 0

A published model may have BIASES and compute a few things by a Convention of
its own; where its biases are given they are added, and a network that is
trained here has none.

Row vectors: a token's residual x [D] is mapped by x @ W, as in TransformerLens.
"""

from induction_jax.model.attention import rotate, sum_heads
from induction_jax.model.interface import (
  NO_EDITS,
  OWN_CONVENTION,
  ROTARY_BASE,
  Activations,
  Convention,
  Edits,
  Model,
  Resumption,
)
from induction_jax.model.norm import inverse_sigma
from induction_jax.model.transformer import make_model
from induction_jax.model.weights import BIASES

__all__ = [
  "BIASES",
  "NO_EDITS",
  "OWN_CONVENTION",
  "ROTARY_BASE",
  "Activations",
  "Convention",
  "Edits",
  "Model",
  "Resumption",
  "inverse_sigma",
  "make_model",
  "rotate",
  "sum_heads",
]
