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

Row vectors: a token's residual x [D] is mapped by x @ W, as in TransformerLens.
The only module that imports flax.linen.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from induction_jax.config import ModelConfig
from induction_jax.types import Array, Key, Params

ROTARY_BASE = 10_000.0


class Activations(NamedTuple):
  """What every head did; XLA drops what the caller does not use."""

  pattern: Array  # [L, B, H, T, S], rows sum to 1
  value: Array  # [L, B, H, S, K]
  output: Array  # [L, B, H, T, D], what the head adds to the residual
  residual: Array  # [L + 1, B, T, D], before each layer and the final norm


class Edits(NamedTuple):
  """Changes to what heads do: pure functions, applied in every layer.

  What is downstream of a change sees it. None changes nothing.

  Attributes:
    pattern: (layer, pattern [B, H, T, S], tokens [B, T]) -> pattern.
    output: (layer, output [B, H, T, D]) -> output.
  """

  pattern: Callable[[int, Array, Array], Array] | None = None
  output: Callable[[int, Array], Array] | None = None


NO_EDITS = Edits()


class Model(NamedTuple):
  """A pair of pure functions.

  Attributes:
    init: key -> params.
    apply: (params, tokens [B, T], edits) -> (logits [B, T, V], Activations);
      without edits where they are left out.
  """

  init: Callable[[Key], Params]
  apply: Callable[..., tuple[Array, Activations]]


def make_model(config: ModelConfig, vocab_size: int, seq_length: int) -> Model:
  """Builds the transformer for sequences of up to `seq_length` tokens."""
  module = Transformer(config, vocab_size, seq_length)

  def init(key: Key) -> Params:
    return module.init(key, jnp.zeros((1, 1), jnp.int32))["params"]

  def apply(
    params: Params, tokens: Array, edits: Edits = NO_EDITS
  ) -> tuple[Array, Activations]:
    if tokens.shape[1] > seq_length:
      raise ValueError(
        f"tokens must have at most seq_length={seq_length} positions, got "
        f"{tokens.shape[1]}"
      )
    outputs: Any = module.apply({"params": params}, tokens, edits)
    return outputs

  return Model(init, apply)


class Transformer(nn.Module):
  """Causal pre-norm transformer; attention only unless `d_mlp` > 0."""

  config: ModelConfig
  vocab_size: int
  seq_length: int

  @nn.compact
  def __call__(
    self, tokens: Array, edits: Edits = NO_EDITS
  ) -> tuple[Array, Activations]:
    config = self.config
    weights = self._weights()
    x = weights["w_e"][tokens]  # [B, T, D]
    if config.position == "learned":
      x = x + weights["w_pos"][None, : tokens.shape[1]]
    residual, heads = [x], []
    for layer in range(config.n_layers):
      x, *activations = _attend(config, weights, layer, x, tokens, edits)
      heads.append(activations)
      if config.d_mlp:
        x = x + _mlp(config, weights, layer, x)
      residual.append(x)
    x = _normalise(config.norm, x, weights.get("final_norm_scale"))
    logits = x @ weights["w_u"]  # [B, T, V]
    return logits, Activations(*map(jnp.stack, (*zip(*heads), residual)))

  def _weights(self) -> Params:
    c = self.config
    qkv = (c.n_layers, c.n_heads, c.d_model, c.d_head)
    ones, zeros = nn.initializers.ones, nn.initializers.zeros
    normal = _normal(c.d_model**-0.5)
    table = {
      "w_e": (normal, (self.vocab_size, c.d_model)),
      "w_q": (normal, qkv),
      "w_k": (normal, qkv),
      "w_v": (normal, qkv),
      "w_o": (normal, (c.n_layers, c.n_heads, c.d_head, c.d_model)),
      "w_u": (normal, (c.d_model, self.vocab_size)),
    }
    if c.position in ("shortformer", "learned"):
      table["w_pos"] = (normal, (self.seq_length, c.d_model))
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
    return {
      name: self.param(name, init, shape)
      for name, (init, shape) in table.items()
    }


def _normal(sd: float) -> Callable[[Key, tuple[int, ...]], Array]:
  """Gaussian initialiser; drawn flat, which XLA compiles ten times faster."""

  def init(key: Key, shape: tuple[int, ...]) -> Array:
    return sd * jax.random.normal(key, (math.prod(shape),)).reshape(shape)

  return init


def _attend(
  config: ModelConfig,
  weights: Params,
  layer: int,
  residual: Array,  # [B, T, D]
  tokens: Array,  # [B, T]
  edits: Edits,
) -> tuple[Array, Array, Array, Array]:
  """Adds one layer of heads; a head is its QK and its OV circuit.

  Returns:
    The residual with the heads added, their pattern, value and output.
  """
  x = _normalise(config.norm, residual, _layer(weights, "norm_scale", layer))
  # Shortformer positions reach queries and keys, never the residual stream.
  shortformer = config.position == "shortformer"
  x_qk = x + weights["w_pos"][None, : x.shape[1]] if shortformer else x
  query = _project(x_qk, weights["w_q"][layer])  # [B, H, T, K]
  key = _project(x_qk, weights["w_k"][layer])
  value = _project(x, weights["w_v"][layer])
  if config.smeared_keys:
    key = _smear(key, weights["smear"][layer])
  if config.position == "rotary":
    query, key = rotate(query), rotate(key)
  score = jnp.einsum("bhtk,bhsk->bhts", query, key) / config.d_head**0.5
  causal = jnp.tri(x.shape[1], dtype=bool)[None, None]
  pattern = jax.nn.softmax(jnp.where(causal, score, -jnp.inf), axis=-1)
  if edits.pattern:
    pattern = edits.pattern(layer, pattern, tokens)
  mixed = jnp.einsum("bhts,bhsk->bhtk", pattern, value)
  w_o = weights["w_o"][layer]
  output = jnp.einsum("bhtk,hkd->bhtd", mixed, w_o)
  if edits.output:
    output = edits.output(layer, output)
    # Head by head: XLA's sum over this axis is eight times slower on CPU.
    added = sum(jnp.unstack(output, axis=1))
  else:
    # A product of its own: summing `output` instead costs B H T D memory and,
    # on CPU, twice the whole forward pass.
    added = _join(mixed) @ w_o.reshape(-1, w_o.shape[-1])
  return residual + added, pattern, value, output


def _project(x: Array, w: Array) -> Array:  # [B, T, D], [H, D, K]
  """Every head's x @ w as one matrix product, [B, H, T, K].

  The same as einsum("btd,hdk->bhtk", x, w), whose derivatives XLA runs as
  many small products: 1.5 times slower on CPU.
  """
  n_heads, d_model, d_head = w.shape
  joined = x @ w.transpose(1, 0, 2).reshape(d_model, n_heads * d_head)
  split = joined.reshape(*x.shape[:2], n_heads, d_head)
  return split.transpose(0, 2, 1, 3)


def _join(mixed: Array) -> Array:  # [B, H, T, K] -> [B, T, H K]
  batch, n_heads, length, d_head = mixed.shape
  return mixed.transpose(0, 2, 1, 3).reshape(batch, length, n_heads * d_head)


def _mlp(config: ModelConfig, weights: Params, layer: int, x: Array) -> Array:
  x = _normalise(config.norm, x, _layer(weights, "mlp_norm_scale", layer))
  hidden = jax.nn.gelu(x @ weights["w_in"][layer])  # [B, T, F]
  return hidden @ weights["w_out"][layer]


def _layer(weights: Params, name: str, layer: int) -> Array | None:
  return weights[name][layer] if name in weights else None


def _normalise(norm: str, x: Array, scale: Array | None) -> Array:
  if scale is None:  # norm "none"
    return x
  x = _centre(norm, x)
  return x * _inverse_size(x) * scale[None, None]


def inverse_sigma(norm: str, x: Array) -> Array:  # [..., D] -> [..., 1]
  """The number a norm multiplies a residual by; ones if it is "none".

  What is nonlinear in a norm: frozen, the norm is linear.
  """
  if norm == "none":
    return jnp.ones_like(x[..., :1])
  return _inverse_size(_centre(norm, x))


def _centre(norm: str, x: Array) -> Array:
  if norm == "layernorm":
    x = x - x.mean(axis=-1, keepdims=True)
  return x


def _inverse_size(x: Array) -> Array:  # [..., D] -> [..., 1]
  mean_square = jnp.mean(x**2, axis=-1, keepdims=True)
  return jax.lax.rsqrt(mean_square + 1e-6)


def _smear(key: Array, smear: Array) -> Array:  # [B, H, S, K], [H]
  """Mixes each key with the one before it (Olsson et al. 2022, section on
  smeared keys): k_s <- a k_s + (1 - a) k_{s-1}, a = sigmoid(smear), k_0 as is.
  """
  gate = jax.nn.sigmoid(smear)[None, :, None, None]
  previous = jnp.concatenate([key[:, :, :1], key[:, :, :-1]], axis=2)
  return gate * key + (1 - gate) * previous


def rotate(x: Array, offset: Array | int = 0) -> Array:  # [..., T, K]
  """Rotary position embedding (Su et al. 2021, arXiv 2104.09864).

  Component i is paired with component i + K / 2 (the GPT-NeoX layout) and
  turned by (t + offset) / 10000^(2 i / K), so that products of rotated
  queries and keys depend on t - s alone.
  """
  half = x.shape[-1] // 2
  frequency = ROTARY_BASE ** (-jnp.arange(half) / half)  # [K / 2]
  place = jnp.arange(x.shape[-2]) + offset  # [T]
  angle = place[:, None] * frequency[None, :]  # [T, K / 2]
  angle = jnp.expand_dims(angle, tuple(range(x.ndim - 2)))
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  a, b = x[..., :half], x[..., half:]
  return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)
