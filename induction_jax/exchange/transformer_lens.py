"""The layout of TransformerLens: its HookedTransformer.

The file contains every entry of `HookedTransformer.state_dict()`, and the JSON
file the arguments of `HookedTransformerConfig`. TransformerLens loads both
without changes and computes the same logits. Networks that it cannot express
are refused.
"""

from typing import Any

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
  per_layer,
  positive,
  require,
  stack_layers,
)
from induction_jax.model import BIASES, Convention
from induction_jax.storage.tensors import Tensors
from induction_jax.types import Params

LAYER = "blocks.{}."
POSITIONS = {
  "rotary": "rotary",
  "shortformer": "shortformer",
  "learned": "standard",
}
SHARED = "n_key_value_heads"  # read_model checks it for all layouts
NORMS = {"layernorm": "LN", "rmsnorm": "RMS", "none": None}

# Name of a parameter here -> its name and shape in TransformerLens.
Table = dict[str, tuple[str, tuple[int, ...]]]


def settings_of(architecture: Architecture) -> dict[str, Any]:
  """The arguments of HookedTransformerConfig.

  Raises:
    ConfigError: for smeared keys, which HookedTransformer does not have.
  """
  config, _, _, convention = architecture
  if config.smeared_keys:
    raise ConfigError(
      "model.smeared_keys must be false to be exported: a HookedTransformer "
      "has no smeared keys"
    )
  settings: dict[str, Any] = {
    "model_name": "induction_jax",
    "n_layers": config.n_layers,
    "n_heads": config.n_heads,
    "d_model": config.d_model,
    "d_head": config.d_head,
    "d_vocab": architecture.vocab_size,
    "n_ctx": architecture.seq_length,
    "attn_only": not config.d_mlp,
    "normalization_type": NORMS[config.norm],
    "eps": convention.epsilon,
    "positional_embedding_type": POSITIONS[config.position],
    "parallel_attn_mlp": convention.parallel,
    "default_prepend_bos": False,
  }
  if config.d_mlp:
    exact = convention.exact_gelu
    settings["d_mlp"] = config.d_mlp
    settings["act_fn"] = "gelu" if exact else "gelu_new"
  if config.position == "rotary":
    settings["rotary_dim"] = _rotary_width(architecture)
    settings["rotary_base"] = convention.rotary_base
    settings["rotary_adjacent_pairs"] = False
  return settings


def tensors_of(architecture: Architecture, params: Params) -> Tensors:
  """Every entry of the state dict; biases that are missing here are zero."""
  in_layer, shared = _tables(architecture)
  arrays = {name: np.asarray(x, np.float32) for name, x in params.items()}
  tensors = {
    theirs: arrays.get(own, np.zeros(shape, np.float32))
    for own, (theirs, shape) in shared.items()
  }
  constants = _constants(architecture)
  for layer in range(architecture.config.n_layers):
    prefix = LAYER.format(layer)
    for own, (theirs, shape) in in_layer.items():
      zeros = np.zeros(shape, np.float32)
      tensors[prefix + theirs] = arrays[own][layer] if own in arrays else zeros
    tensors |= {prefix + name: x for name, x in constants.items()}
  return tensors


def describe(settings: Settings) -> Architecture:
  """The network that the settings describe."""
  convention = Convention(
    epsilon=positive(settings, "eps", 1e-5),
    parallel=flag(settings, "parallel_attn_mlp", False),
  )
  d_mlp = 0
  if not flag(settings, "attn_only", False):
    d_mlp = count(settings, "d_mlp")
    exact = is_exact_gelu(settings["act_fn"])
    convention = convention._replace(exact_gelu=exact)
  position = _ours(POSITIONS, settings, "positional_embedding_type")
  if position == "rotary":
    convention = convention._replace(
      rotary_width=count(settings, "rotary_dim"),
      rotary_base=positive(settings, "rotary_base", 10_000),
    )
  architecture = Architecture(
    config=make_model_config(
      n_layers=count(settings, "n_layers"),
      n_heads=count(settings, "n_heads"),
      d_model=count(settings, "d_model"),
      d_mlp=d_mlp,
      position=position,
      norm=_ours(NORMS, settings, "normalization_type"),
      smeared_keys=False,
    ),
    vocab_size=count(settings, "d_vocab"),
    seq_length=count(settings, "n_ctx"),
    convention=convention,
  )
  if position == "rotary":
    width = _rotary_width(architecture)
    check_rotary_width("rotary_dim", width, architecture.config.d_head)
  # Other values than those written by settings_of may change the result.
  require(settings, **settings_of(architecture) | _free(settings))
  unknown = settings.keys() - settings_of(architecture).keys() - {SHARED}
  if unknown:
    raise ConfigError(f"unknown settings: {sorted(unknown)}")
  return architecture


def shapes(
  settings: Settings, architecture: Architecture
) -> dict[str, tuple[int, ...]]:
  """The shape of every tensor that is a parameter."""
  del settings  # an unembedding is never tied
  in_layer, shared = _tables(architecture)
  return dict(shared.values()) | per_layer(
    architecture, LAYER, dict(in_layer.values())
  )


def convert(architecture: Architecture, tensors: Tensors) -> Tensors:
  """Parameters, named as in induction_jax.model, without biases of zeros."""
  in_layer, shared = _tables(architecture)
  params = {own: tensors[theirs] for own, (theirs, _) in shared.items()}
  for own, (theirs, _) in in_layer.items():
    params[own] = stack_layers(architecture, tensors, LAYER, theirs)
  if np.any(params.pop("b_u")):
    raise ConfigError("unembed.b_U must be zero: it is not implemented")
  return {
    name: x for name, x in params.items() if name not in BIASES or np.any(x)
  }


def _tables(architecture: Architecture) -> tuple[Table, Table]:
  """The parameters of each layer, and those without a layer."""
  config, vocab, length, _ = architecture
  h, d, k, f = config.n_heads, config.d_model, config.d_head, config.d_mlp
  in_layer: Table = {"w_o": ("attn.W_O", (h, k, d)), "b_o": ("attn.b_O", (d,))}
  for x in "qkv":
    in_layer[f"w_{x}"] = f"attn.W_{x.upper()}", (h, d, k)
    in_layer[f"b_{x}"] = f"attn.b_{x.upper()}", (h, k)
  if f:
    in_layer |= {"w_in": ("mlp.W_in", (d, f)), "b_in": ("mlp.b_in", (f,))}
    in_layer |= {"w_out": ("mlp.W_out", (f, d)), "b_out": ("mlp.b_out", (d,))}
  shared: Table = {"w_e": ("embed.W_E", (vocab, d))}
  if config.position != "rotary":
    shared["w_pos"] = "pos_embed.W_pos", (length, d)
  shared["w_u"] = "unembed.W_U", (d, vocab)
  shared["b_u"] = "unembed.b_U", (vocab,)
  # RMS norms have no bias.
  parts = {
    "layernorm": {"scale": "w", "bias": "b"},
    "rmsnorm": {"scale": "w"},
    "none": {},
  }
  for ours, theirs in parts[config.norm].items():
    in_layer[f"norm_{ours}"] = f"ln1.{theirs}", (d,)
    if f:
      in_layer[f"mlp_norm_{ours}"] = f"ln2.{theirs}", (d,)
    shared[f"final_norm_{ours}"] = f"ln_final.{theirs}", (d,)
  return in_layer, shared


def _ours(table: dict[str, Any], settings: Settings, name: str) -> str:
  for ours, theirs in table.items():
    if theirs == settings[name]:
      return ours
  raise ConfigError(
    f"{name} must be one of {list(table.values())}, got {settings[name]!r}"
  )


def _free(settings: Settings) -> dict[str, Any]:
  """Settings that do not change what is computed, or are checked elsewhere."""
  free = ("model_name", "default_prepend_bos", "act_fn")
  return {name: settings[name] for name in free if name in settings}


def _rotary_width(architecture: Architecture) -> int:
  return architecture.convention.rotary_width or architecture.config.d_head


CONSTANTS = ("mask", "IGNORE", "rotary_sin", "rotary_cos")


def _constants(architecture: Architecture) -> Tensors:
  """Entries of a layer that are not parameters: mask and rotations."""
  length = architecture.seq_length
  constants = {
    "attn.mask": np.tri(length, dtype=bool),
    "attn.IGNORE": np.array(-np.inf, np.float32),
  }
  if architecture.config.position == "rotary":
    half = _rotary_width(architecture) // 2
    frequency = architecture.convention.rotary_base ** (-np.arange(half) / half)
    angle = np.tile(np.arange(length)[:, None] * frequency, 2)  # both halves
    constants["attn.rotary_sin"] = np.sin(angle).astype(np.float32)
    constants["attn.rotary_cos"] = np.cos(angle).astype(np.float32)
  return constants


TRANSFORMER_LENS = Layout(
  prefixes=(),
  ignored=tuple(LAYER + f"attn.{name}" for name in CONSTANTS),
  describe=describe,
  shapes=shapes,
  convert=convert,
)
