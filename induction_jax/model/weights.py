"""The parameters by name: how they are drawn, stacked over layers and read."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from induction_jax.config import ModelConfig
from induction_jax.types import Array, Key, Params

Initialiser = Callable[[Key, tuple[int, ...]], Array]

# Of queries, keys and values [L, H, K]; of what all heads of a layer add
# [L, D]; of the MLP [L, F] and [L, D]; of the norms [L, D] and [D].
BIASES = (
  *("b_q", "b_k", "b_v", "b_o", "b_in", "b_out"),
  *("norm_bias", "mlp_norm_bias", "final_norm_bias"),
)

# Of no layer in particular; all others are stacked over layers.
UNSTACKED = ("w_e", "w_u", "w_pos", "final_norm_scale", "final_norm_bias")


def weight_table(
  config: ModelConfig, vocab_size: int, seq_length: int
) -> dict[str, tuple[Initialiser, tuple[int, ...]]]:
  """How each parameter that is trained is drawn, and its shape."""
  c = config
  qkv = (c.n_layers, c.n_heads, c.d_model, c.d_head)
  ones, zeros = jax.nn.initializers.ones, jax.nn.initializers.zeros
  normal = _normal(c.d_model**-0.5)
  table = {
    "w_e": (normal, (vocab_size, c.d_model)),
    "w_q": (normal, qkv),
    "w_k": (normal, qkv),
    "w_v": (normal, qkv),
    "w_o": (normal, (c.n_layers, c.n_heads, c.d_head, c.d_model)),
    "w_u": (normal, (c.d_model, vocab_size)),
  }
  if c.position in ("shortformer", "learned"):
    table["w_pos"] = (normal, (seq_length, c.d_model))
  if c.smeared_keys:
    table["smear"] = (zeros, (c.n_layers, c.n_heads))
  if c.d_mlp:
    narrow = _normal(c.d_mlp**-0.5)
    table["w_in"] = (normal, (c.n_layers, c.d_model, c.d_mlp))
    table["w_out"] = (narrow, (c.n_layers, c.d_mlp, c.d_model))
  if c.norm != "none":
    table["norm_scale"] = (ones, (c.n_layers, c.d_model))
    table["final_norm_scale"] = (ones, (c.d_model,))
    if c.d_mlp:
      table["mlp_norm_scale"] = (ones, (c.n_layers, c.d_model))
  return table


def unstack(stacked: Array) -> list[Array]:  # [L, ...] -> L of [...]
  """The layers of a parameter, split all at once.

  The derivative of a split is one concatenation. That of an index would be an
  array as large as the whole parameter, for every layer: memory and time that
  grow with L^2.
  """
  parts = jax.lax.split(stacked, (1,) * stacked.shape[0])
  return [jnp.squeeze(part, 0) for part in parts]


def of_layer(weights: Params, name: str, layer: int | None) -> Any:
  """One layer's part of a parameter, the whole of it, or nothing."""
  if layer is None or name not in weights:
    return weights.get(name)
  return weights[name][layer]


def add_bias(x: Array, bias: Array | None) -> Array:  # [B, T, ...], [...]
  """With the bias where there is one."""
  return x if bias is None else x + bias[None, None]


def _normal(sd: float) -> Initialiser:
  """Gaussian initialiser; drawn flat, which XLA compiles ten times faster."""

  def init(key: Key, shape: tuple[int, ...]) -> Array:
    return sd * jax.random.normal(key, (math.prod(shape),)).reshape(shape)

  return init
