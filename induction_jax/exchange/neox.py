"""The layout of GPT-NeoX and Pythia (Black et al. 2022, arXiv 2204.06745).

A linear map is x @ W^T + b, with W [out, in]. The rows of `query_key_value`
[3 D, D] are split by head, and those of a head into its queries, keys and
values. Rotary positions rotate a fraction of each head's components. Attention
and MLP read the same residual.
"""

import numpy as np

from induction_jax.config import ConfigError, make_model_config
from induction_jax.exchange.layout import (
  Architecture,
  Layout,
  Settings,
  check_rotary_width,
  count,
  flag,
  is_exact_gelu,
  join_heads,
  per_layer,
  positive,
  require,
  stack_layers,
)
from induction_jax.model import Convention
from induction_jax.storage.tensors import Tensors

LAYER = "layers.{}."
NORMS = ("input_layernorm", "post_attention_layernorm")
ROTATIONS = {"rope_type", "partial_rotary_factor", "rope_theta"}
BUFFERS = ("bias", "masked_bias", "rotary_emb.inv_freq")


def describe(settings: Settings) -> Architecture:
  """The network that the settings describe."""
  require(settings, rope_scaling=None, attention_bias=True)
  config = make_model_config(
    n_layers=count(settings, "num_hidden_layers"),
    n_heads=count(settings, "num_attention_heads"),
    d_model=count(settings, "hidden_size"),
    d_mlp=count(settings, "intermediate_size"),
    position="rotary",
    norm="layernorm",
    smeared_keys=False,
  )
  fraction, base = _rotary(settings)
  # A fraction above 1 is refused below; limited, so that int does not overflow.
  width = int(config.d_head * min(fraction, 2.0))
  check_rotary_width("rotary_pct", width, config.d_head)
  return Architecture(
    config=config,
    vocab_size=count(settings, "vocab_size"),
    seq_length=count(settings, "max_position_embeddings"),
    convention=Convention(
      epsilon=positive(settings, "layer_norm_eps", 1e-5),
      exact_gelu=is_exact_gelu(settings.get("hidden_act", "gelu")),
      parallel=flag(settings, "use_parallel_residual", True),
      rotary_width=width,
      rotary_base=base,
    ),
  )


def _rotary(settings: Settings) -> tuple[float, float]:
  """Fraction and base of rotary positions; newer files have a section."""
  section = settings.get("rope_parameters") or {}
  if not isinstance(section, dict):
    raise ConfigError(f"rope_parameters must be an object, got {section!r}")
  require(section, rope_type="default")
  unknown = section.keys() - ROTATIONS
  if unknown:
    raise ConfigError(
      f"rope_parameters has unknown settings: {sorted(unknown)}"
    )
  fraction = positive(settings, "rotary_pct", 0.25)
  base = positive(settings, "rotary_emb_base", 10_000)
  return (
    positive(section, "partial_rotary_factor", fraction),
    positive(section, "rope_theta", base),
  )


def shapes(
  settings: Settings, architecture: Architecture
) -> dict[str, tuple[int, ...]]:
  """The shape of every tensor, including `embed_out` if it is not tied."""
  config, vocab = architecture.config, architecture.vocab_size
  d, f = config.d_model, config.d_mlp
  in_layer = {
    **{f"{norm}.{part}": (d,) for norm in NORMS for part in ("weight", "bias")},
    "attention.query_key_value.weight": (3 * d, d),
    "attention.query_key_value.bias": (3 * d,),
    "attention.dense.weight": (d, d),
    "attention.dense.bias": (d,),
    "mlp.dense_h_to_4h.weight": (f, d),
    "mlp.dense_h_to_4h.bias": (f,),
    "mlp.dense_4h_to_h.weight": (d, f),
    "mlp.dense_4h_to_h.bias": (d,),
  }
  tied = flag(settings, "tie_word_embeddings", False)
  return {
    "embed_in.weight": (vocab, d),
    **per_layer(architecture, LAYER, in_layer),
    "final_layer_norm.weight": (d,),
    "final_layer_norm.bias": (d,),
    **({} if tied else {"embed_out.weight": (vocab, d)}),
  }


def convert(architecture: Architecture, tensors: Tensors) -> Tensors:
  """Parameters, named as in induction_jax.model."""
  config = architecture.config

  def stack(name: str) -> np.ndarray:
    return stack_layers(architecture, tensors, LAYER, name)

  def matrix(name: str) -> np.ndarray:  # [L, in, out]
    return np.swapaxes(stack(f"{name}.weight"), 1, 2)

  def qkv(part: str) -> np.ndarray:  # [3, L, H, K, D] or, of biases, [..., K]
    joined = stack(f"attention.query_key_value.{part}")
    heads = (config.n_layers, config.n_heads, 3, config.d_head)
    return np.moveaxis(joined.reshape(*heads, *joined.shape[2:]), 2, 0)

  weights = np.swapaxes(qkv("weight"), -1, -2)  # [3, L, H, D, K]
  unembed = tensors.get("embed_out.weight", tensors["embed_in.weight"])
  return {
    "w_e": tensors["embed_in.weight"],
    **dict(zip(("w_q", "w_k", "w_v"), weights)),
    **dict(zip(("b_q", "b_k", "b_v"), qkv("bias"))),
    "w_o": join_heads(architecture, matrix("attention.dense")),
    "b_o": stack("attention.dense.bias"),
    "norm_scale": stack("input_layernorm.weight"),
    "norm_bias": stack("input_layernorm.bias"),
    "mlp_norm_scale": stack("post_attention_layernorm.weight"),
    "mlp_norm_bias": stack("post_attention_layernorm.bias"),
    "w_in": matrix("mlp.dense_h_to_4h"),
    "b_in": stack("mlp.dense_h_to_4h.bias"),
    "w_out": matrix("mlp.dense_4h_to_h"),
    "b_out": stack("mlp.dense_4h_to_h.bias"),
    "final_norm_scale": tensors["final_layer_norm.weight"],
    "final_norm_bias": tensors["final_layer_norm.bias"],
    "w_u": unembed.T,
  }


NEOX = Layout(
  prefixes=("gpt_neox.",),
  # Causal masks, frequencies of the rotations, a copy of a tied embedding.
  ignored=(
    *(LAYER + f"attention.{name}" for name in BUFFERS),
    "embed_out.weight",
  ),
  describe=describe,
  shapes=shapes,
  convert=convert,
)
