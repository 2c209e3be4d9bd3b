"""The layout of GPT-2 (Radford et al. 2019).

A linear map is x @ W + b, with W [in, out]. Queries, keys and values are the
thirds of one matrix `c_attn` [D, 3 D], and each third is split by head. The
unembedding is the embedding, unless there is a tensor `lm_head`.
"""

import numpy as np

from induction_jax.config import make_model_config
from induction_jax.exchange.layout import (
  Architecture,
  Layout,
  Settings,
  count,
  flag,
  is_exact_gelu,
  join_heads,
  per_layer,
  positive,
  require,
  split_heads,
  stack_layers,
)
from induction_jax.model import Convention
from induction_jax.storage.tensors import Tensors

LAYER = "h.{}."
HEAD = "lm_head.weight"


def describe(settings: Settings) -> Architecture:
  """The network that the settings describe."""
  require(
    settings,
    scale_attn_weights=True,
    scale_attn_by_inverse_layer_idx=False,
    add_cross_attention=False,
  )
  d_model = count(settings, "n_embd")
  own_width = settings.get("n_inner") is not None
  return Architecture(
    config=make_model_config(
      n_layers=count(settings, "n_layer"),
      n_heads=count(settings, "n_head"),
      d_model=d_model,
      d_mlp=count(settings, "n_inner") if own_width else 4 * d_model,
      position="learned",
      norm="layernorm",
      smeared_keys=False,
    ),
    vocab_size=count(settings, "vocab_size"),
    seq_length=count(settings, "n_positions"),
    convention=Convention(
      epsilon=positive(settings, "layer_norm_epsilon", 1e-5),
      exact_gelu=is_exact_gelu(settings.get("activation_function", "gelu_new")),
    ),
  )


def shapes(
  settings: Settings, architecture: Architecture
) -> dict[str, tuple[int, ...]]:
  """The shape of every tensor, including `lm_head` if it is not tied."""
  config, vocab = architecture.config, architecture.vocab_size
  d, f = config.d_model, config.d_mlp
  in_layer = {
    **{f"ln_{i}.{part}": (d,) for i in (1, 2) for part in ("weight", "bias")},
    "attn.c_attn.weight": (d, 3 * d),
    "attn.c_attn.bias": (3 * d,),
    "attn.c_proj.weight": (d, d),
    "attn.c_proj.bias": (d,),
    "mlp.c_fc.weight": (d, f),
    "mlp.c_fc.bias": (f,),
    "mlp.c_proj.weight": (f, d),
    "mlp.c_proj.bias": (d,),
  }
  tied = flag(settings, "tie_word_embeddings", True)
  return {
    "wte.weight": (vocab, d),
    "wpe.weight": (architecture.seq_length, d),
    **per_layer(architecture, LAYER, in_layer),
    "ln_f.weight": (d,),
    "ln_f.bias": (d,),
    **({} if tied else {HEAD: (vocab, d)}),
  }


def convert(architecture: Architecture, tensors: Tensors) -> Tensors:
  """Parameters, named as in induction_jax.model."""

  def stack(name: str) -> np.ndarray:
    return stack_layers(architecture, tensors, LAYER, name)

  def qkv(part: str) -> list[np.ndarray]:
    thirds = np.split(stack(f"attn.c_attn.{part}"), 3, axis=-1)
    return [split_heads(architecture, third) for third in thirds]

  return {
    "w_e": tensors["wte.weight"],
    "w_pos": tensors["wpe.weight"],
    **dict(zip(("w_q", "w_k", "w_v"), qkv("weight"))),
    **dict(zip(("b_q", "b_k", "b_v"), qkv("bias"))),
    "w_o": join_heads(architecture, stack("attn.c_proj.weight")),
    "b_o": stack("attn.c_proj.bias"),
    "norm_scale": stack("ln_1.weight"),
    "norm_bias": stack("ln_1.bias"),
    "mlp_norm_scale": stack("ln_2.weight"),
    "mlp_norm_bias": stack("ln_2.bias"),
    "w_in": stack("mlp.c_fc.weight"),
    "b_in": stack("mlp.c_fc.bias"),
    "w_out": stack("mlp.c_proj.weight"),
    "b_out": stack("mlp.c_proj.bias"),
    "final_norm_scale": tensors["ln_f.weight"],
    "final_norm_bias": tensors["ln_f.bias"],
    "w_u": tensors.get(HEAD, tensors["wte.weight"]).T,
  }


GPT2 = Layout(
  prefixes=("transformer.",),
  # Causal masks, and a copy of the embedding, which some files contain.
  ignored=(LAYER + "attn.bias", LAYER + "attn.masked_bias", HEAD),
  describe=describe,
  shapes=shapes,
  convert=convert,
)
