"""The network itself. The only module that imports flax.linen."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from induction_jax.config import ModelConfig
from induction_jax.model.attention import (
  attend,
  mix_in_blocks,
  read_by_heads,
  write_by_heads,
)
from induction_jax.model.interface import (
  NO_EDITS,
  OWN_CONVENTION,
  Activations,
  Convention,
  Edits,
  Model,
  Resumption,
)
from induction_jax.model.norm import normalise
from induction_jax.model.product import product
from induction_jax.model.weights import (
  BIASES,
  UNSTACKED,
  add_bias,
  of_layer,
  unstack,
  weight_table,
)
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
    """Without edits, not even none of them, there are no activations."""
    config, convention = self.config, self.convention
    weights: dict[str, Any] = {
      name: weight if name in UNSTACKED else unstack(weight)
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
      heads_read = read_by_heads(config, convention, weights, layer, x)
      if edits is None:
        added = write_by_heads(weights, layer, mix_in_blocks(*heads_read))
      else:
        added, *activations = attend(weights, layer, *heads_read, tokens, edits)
        heads.append(activations)
      x = _end_layer(config, convention, weights, layer, x, added)
      residual.append(x)
    x = normalise(config, convention, weights, "final_norm", None, x)
    logits = product(x, weights["w_u"])  # [B, T, V]
    if edits is None:
      return logits, None
    # Resumed in the last layer, there are no heads left to tell of.
    of_heads = zip(*heads) if heads else ((),) * 3
    parts = (*of_heads, residual)
    return logits, Activations(
      *(jnp.stack(x) if x else jnp.zeros(0) for x in parts)
    )

  def _weights(self) -> Params:
    table = weight_table(self.config, self.vocab_size, self.seq_length)
    weights = {
      name: self.param(name, init, shape)
      for name, (init, shape) in table.items()
    }
    return weights | {
      name: self.get_variable("params", name)
      for name in BIASES
      if self.has_variable("params", name)
    }


def _end_layer(
  config: ModelConfig,
  convention: Convention,
  weights: Params,
  layer: int,
  x: Array,  # [B, T, D], before the layer
  added: Array,  # [B, T, D], by its heads
) -> Array:
  """The residual after a layer whose heads have written."""
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
  x = normalise(config, convention, weights, "mlp_norm", layer, x)
  b_in, b_out = (of_layer(weights, name, layer) for name in ("b_in", "b_out"))
  hidden = add_bias(product(x, weights["w_in"][layer]), b_in)  # [B, T, F]
  hidden = jax.nn.gelu(hidden, approximate=not convention.exact_gelu)
  return add_bias(product(hidden, weights["w_out"][layer]), b_out)
