"""The network: embedding, norms, layers, unembedding. Only it imports flax."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from induction_jax.config import ModelConfig
from induction_jax.model.attention import (
  attention_by_head,
  blockwise_attention,
  output_projection,
  queries_keys_values,
)
from induction_jax.model.interface import (
  BIASES,
  NO_EDITS,
  OWN_CONVENTION,
  UNSTACKED,
  Activations,
  Convention,
  Edits,
  Model,
  Resumption,
  add_bias,
  of_layer,
  parameter_table,
)
from induction_jax.model.product import product
from induction_jax.types import Array, Key, Params


def make_model(
  config: ModelConfig,
  vocab_size: int,
  seq_length: int,
  convention: Convention = OWN_CONVENTION,
) -> Model:
  """Builds the transformer for sequences of up to `seq_length` tokens."""
  module = Transformer(config, vocab_size, seq_length, convention)

  def init(key: Key) -> Params:
    return module.init(key, jnp.zeros((1, 1), jnp.int32))["params"]

  def run(
    params: Params,
    tokens: Array,
    edits: Edits | None,
    resumption: Resumption | None = None,
  ) -> Any:
    if tokens.shape[1] > seq_length:
      raise ValueError(
        f"tokens must have at most seq_length={seq_length} positions, got "
        f"{tokens.shape[1]}"
      )
    return module.apply({"params": params}, tokens, edits, resumption)

  def apply(
    params: Params,
    tokens: Array,
    edits: Edits = NO_EDITS,
    resumption: Resumption | None = None,
  ) -> tuple[Array, Activations]:
    outputs: tuple[Array, Activations] = run(params, tokens, edits, resumption)
    return outputs

  def predict(params: Params, tokens: Array) -> Array:
    logits: Array = run(params, tokens, None)[0]
    return logits

  return Model(init, apply, predict)


class Transformer(nn.Module):
  """Causal pre-norm transformer; attention only unless `d_mlp` > 0."""

  config: ModelConfig
  vocab_size: int
  seq_length: int
  convention: Convention = OWN_CONVENTION

  @nn.compact
  def __call__(
    self,
    tokens: Array,
    edits: Edits | None = NO_EDITS,
    resumption: Resumption | None = None,
  ) -> tuple[Array, Activations | None]:
    """Logits, and activations unless `edits` is None (see Model)."""
    config, convention = self.config, self.convention
    weights: dict[str, Any] = {
      name: weight if name in UNSTACKED else _unstack(weight)
      for name, weight in self._weights().items()
    }
    if resumption is None:
      first, x = 0, weights["w_e"][tokens]  # [B, T, D]
      if config.position == "learned":
        x = x + weights["w_pos"][None, : tokens.shape[1]]
    else:
      layer, x, added = resumption
      first, added = layer + 1, add_bias(added, of_layer(weights, "b_o", layer))
      x = _end_layer(config, convention, weights, layer, x, added)
    residual, heads = [x], []
    for layer in range(first, config.n_layers):
      read = _normalise(config, convention, weights, "norm", layer, x)
      qkv = queries_keys_values(config, convention, weights, layer, read)
      if edits is None:
        added = output_projection(weights, layer, blockwise_attention(*qkv))
      else:
        added, *activations = attention_by_head(
          weights, layer, *qkv, tokens, edits
        )
        heads.append(activations)
      x = _end_layer(config, convention, weights, layer, x, added)
      residual.append(x)
    x = _normalise(config, convention, weights, "final_norm", None, x)
    logits = product(x, weights["w_u"])  # [B, T, V]
    if edits is None:
      return logits, None
    # A pass that is resumed in the last layer has no activations of heads.
    by_kind = zip(*heads) if heads else ((),) * 3
    stacks = (*by_kind, residual)
    return logits, Activations(
      *(jnp.stack(x) if x else jnp.zeros(0) for x in stacks)
    )

  def _weights(self) -> Params:
    table = parameter_table(self.config, self.vocab_size, self.seq_length)
    weights = {
      name: self.param(name, init, shape)
      for name, (init, shape) in table.items()
    }
    return weights | {
      name: self.get_variable("params", name)
      for name in BIASES
      if self.has_variable("params", name)
    }


def inverse_sigma(
  norm: str, x: Array, epsilon: float = OWN_CONVENTION.epsilon
) -> Array:  # [..., D] -> [..., 1]
  """The factor 1 / sigma by which a norm scales a residual; 1 without a norm.

  With this factor held constant, the norm is a linear map.
  """
  if norm == "none":
    return jnp.ones_like(x[..., :1])
  return _inverse_size(_centre(norm, x), epsilon)


def _end_layer(
  config: ModelConfig,
  convention: Convention,
  weights: Params,
  layer: int,
  x: Array,  # [B, T, D], before the layer
  added: Array,  # [B, T, D], by its heads
) -> Array:
  """The residual after a layer: adds the output of its heads and its MLP."""
  y = x + added
  if not config.d_mlp:
    return y
  read = x if convention.parallel else y
  return y + _mlp(config, convention, weights, layer, read)


def _mlp(
  config: ModelConfig,
  convention: Convention,
  weights: Params,
  layer: int,
  x: Array,  # [B, T, D]
) -> Array:
  x = _normalise(config, convention, weights, "mlp_norm", layer, x)
  b_in, b_out = (of_layer(weights, name, layer) for name in ("b_in", "b_out"))
  hidden = add_bias(product(x, weights["w_in"][layer]), b_in)  # [B, T, F]
  hidden = jax.nn.gelu(hidden, approximate=not convention.exact_gelu)
  return add_bias(product(hidden, weights["w_out"][layer]), b_out)


def _normalise(
  config: ModelConfig,
  convention: Convention,
  weights: Params,
  name: str,
  layer: int | None,
  x: Array,  # [B, T, D]
) -> Array:
  """Applies the norm "norm" (before heads), "mlp_norm" or "final_norm"."""
  if config.norm == "none":
    return x
  scale = of_layer(weights, f"{name}_scale", layer)
  x = _centre(config.norm, x)
  x = x * _inverse_size(x, convention.epsilon) * scale[None, None]
  return add_bias(x, of_layer(weights, f"{name}_bias", layer))


def _centre(norm: str, x: Array) -> Array:
  if norm == "layernorm":
    x = x - x.mean(axis=-1, keepdims=True)
  return x


def _inverse_size(x: Array, epsilon: float) -> Array:  # [..., D] -> [..., 1]
  mean_square = jnp.mean(x**2, axis=-1, keepdims=True)
  return jax.lax.rsqrt(mean_square + epsilon)


def _unstack(stacked: Array) -> list[Array]:  # [L, ...] -> L of [...]
  """The layers of a parameter, by one split.

  The derivative of a split is one concatenation. The derivative of indexing is
  an array as large as the parameter for every layer, which takes memory and
  time proportional to L^2.
  """
  parts = jax.lax.split(stacked, (1,) * stacked.shape[0])
  return [jnp.squeeze(part, 0) for part in parts]
