"""The transformer, with parameters and activations by head.

Parameters are stacked over layers and heads, so that (layer, head) indexes the
weights of a head:

  w_e [V, D]              embedding
  w_q, w_k, w_v [L, H, D, K], w_o [L, H, K, D]
  w_u [D, V]              unembedding
  norm_scale [L, D], final_norm_scale [D]      unless norm is "none"
  w_pos [T, D]            positions "shortformer" and "learned"
  smear [L, H]            smeared keys
  w_in [L, D, F], w_out [L, F, D], mlp_norm_scale [L, D]      if d_mlp > 0

Networks trained here have no biases. A published model may have some of BIASES,
which are then added, and a Convention of its own.

Row vectors: a token's residual x [D] is mapped by x @ W, as in TransformerLens.
"""

from induction_jax.model.attention import rotate, sum_heads
from induction_jax.model.interface import (
  BIASES,
  NO_EDITS,
  OWN_CONVENTION,
  ROTARY_BASE,
  Activations,
  Convention,
  Edits,
  Model,
  Resumption,
  parameter_shapes,
)
from induction_jax.model.transformer import inverse_sigma, make_model

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
  "parameter_shapes",
  "rotate",
  "sum_heads",
]
