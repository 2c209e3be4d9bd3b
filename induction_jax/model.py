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
The only module that imports flax.linen.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from induction_jax.config import ModelConfig
from induction_jax.product import product
from induction_jax.types import Array, Key, Params

ROTARY_BASE = 10_000.0
# Queries whose scores are held at once where nobody asks for patterns.
QUERY_BLOCK = 64
# Of queries, keys and values [L, H, K]; of what all heads of a layer add
# [L, D]; of the MLP [L, F] and [L, D]; of the norms [L, D] and [D].
BIASES = (
  *("b_q", "b_k", "b_v", "b_o", "b_in", "b_out"),
  *("norm_bias", "mlp_norm_bias", "final_norm_bias"),
)

# Of no layer in particular; all others are stacked over layers.
UNSTACKED = ("w_e", "w_u", "w_pos", "final_norm_scale", "final_norm_bias")


class Convention(NamedTuple):
  """What published models of one shape differ in; the defaults are our own.

  Attributes:
    epsilon: added to the mean square before a norm divides by its root.
    exact_gelu: x Phi(x) itself, and not its approximation by tanh (Hendrycks
      and Gimpel 2016, arXiv 1606.08415, give both).
    parallel: the MLP reads what the heads read, and not what they wrote.
    rotary_width: components of each query and key that are rotated, the first
      ones; None is all.
    rotary_base: of the rotations' frequencies.
  """

  epsilon: float = 1e-6
  exact_gelu: bool = False
  parallel: bool = False
  rotary_width: int | None = None
  rotary_base: float = ROTARY_BASE


OWN_CONVENTION = Convention()


class Activations(NamedTuple):
  """What every head did; XLA drops what the caller does not use."""

  pattern: Array  # [L, B, H, T, S], rows sum to 1
  value: Array  # [L, B, H, S, K], the head's own, whatever becomes of it
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


class Resumption(NamedTuple):
  """A pass that begins where the heads of a layer have written.

  Attributes:
    layer: which.
    residual: before it, [B, T, D].
    added: what its heads together add to that, [B, T, D], biases left out.
  """

  layer: int
  residual: Array
  added: Array


class Model(NamedTuple):
  """Pure functions, and what they do to heads unasked.

  Attributes:
    init: key -> params.
    apply: (params, tokens [B, T], edits, resumption) -> (logits [B, T, V],
      Activations); without edits and from the embedding where they are left
      out. Resumed, activations are those of the layers that remain, and the
      residuals from before the first of these on.
    predict: (params, tokens [B, T]) -> logits, the same to rounding but
      faster: no pattern is ever whole. What is trained and differentiated.
    clamps: edits that both make in every pass, before any `apply` is given.
    mixes_sequences: whether what is computed of one sequence depends on the
      others of its batch, so that a batch is no sum of its parts.
  """

  init: Callable[[Key], Params]
  apply: Callable[..., tuple[Array, Activations]]
  predict: Callable[[Params, Array], Array]
  clamps: Edits = NO_EDITS
  mixes_sequences: bool = False


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
      name: weight if name in UNSTACKED else _unstack(weight)
      for name, weight in self._weights().items()
    }
    if resumption is None:
      first, x = 0, weights["w_e"][tokens]  # [B, T, D]
      if config.position == "learned":
        x = x + weights["w_pos"][None, : tokens.shape[1]]
    else:
      layer, x, added = resumption
      first, added = layer + 1, _shift(added, _layer(weights, "b_o", layer))
      x = _end_layer(config, convention, weights, layer, x, added)
    residual, heads = [x], []
    for layer in range(first, config.n_layers):
      read_by_heads = _read(config, convention, weights, layer, x)
      if edits is None:
        added = _write(weights, layer, _mix_in_blocks(*read_by_heads))
      else:
        added, *activations = _attend(
          weights, layer, *read_by_heads, tokens, edits
        )
        heads.append(activations)
      x = _end_layer(config, convention, weights, layer, x, added)
      residual.append(x)
    x = _normalise(config, convention, weights, "final_norm", None, x)
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
    weights = {
      name: self.param(name, init, shape)
      for name, (init, shape) in table.items()
    }
    return weights | {
      name: self.get_variable("params", name)
      for name in BIASES
      if self.has_variable("params", name)
    }


def _unstack(stacked: Array) -> list[Array]:  # [L, ...] -> L of [...]
  """The layers of a parameter, split all at once.

  The derivative of a split is one concatenation. That of an index would be an
  array as large as the whole parameter, for every layer: memory and time that
  grow with L^2.
  """
  parts = jax.lax.split(stacked, (1,) * stacked.shape[0])
  return [jnp.squeeze(part, 0) for part in parts]


def _normal(sd: float) -> Callable[[Key, tuple[int, ...]], Array]:
  """Gaussian initialiser; drawn flat, which XLA compiles ten times faster."""

  def init(key: Key, shape: tuple[int, ...]) -> Array:
    return sd * jax.random.normal(key, (math.prod(shape),)).reshape(shape)

  return init


def _read(
  config: ModelConfig,
  convention: Convention,
  weights: Params,
  layer: int,
  residual: Array,  # [B, T, D]
) -> tuple[Array, Array, Array]:
  """Queries, keys and values of one layer, [B, H, T, K].

  Queries come divided by sqrt(K), so that a score is a product with a key.
  """
  x = _normalise(config, convention, weights, "norm", layer, residual)
  # Shortformer positions reach queries and keys, never the residual stream.
  if config.position == "shortformer":
    x_qk = x + weights["w_pos"][None, : x.shape[1]]
    query, key = _project(weights, layer, x_qk, "qk")
    (value,) = _project(weights, layer, x, "v")
  else:
    query, key, value = _project(weights, layer, x, "qkv")
  if config.smeared_keys:
    key = _smear(key, weights["smear"][layer])
  if config.position == "rotary":
    width, base = convention.rotary_width, convention.rotary_base
    query, key = (rotate(x, width=width, base=base) for x in (query, key))
  return query / config.d_head**0.5, key, value


def _attend(
  weights: Params,
  layer: int,
  query: Array,  # [B, H, T, K]
  key: Array,  # [B, H, S, K]
  value: Array,  # [B, H, S, K]
  tokens: Array,  # [B, T]
  edits: Edits,
) -> tuple[Array, Array, Array, Array]:
  """One layer of heads; a head is its QK and its OV circuit.

  Returns:
    What they add to the residual, and their pattern, value and output.
  """
  score = jnp.einsum("bhtk,bhsk->bhts", query, key)
  causal = jnp.tri(query.shape[2], dtype=bool)[None, None]
  pattern = jax.nn.softmax(jnp.where(causal, score, -jnp.inf), axis=-1)
  if edits.pattern:
    pattern = edits.pattern(layer, pattern, tokens)
  mixed = jnp.einsum("bhts,bhsk->bhtk", pattern, value)
  output = jnp.einsum("bhtk,hkd->bhtd", mixed, weights["w_o"][layer])
  if edits.output:
    output = edits.output(layer, output)
    added = sum_heads(output)
    added = _shift(added, _layer(weights, "b_o", layer))
  else:
    added = _write(weights, layer, mixed)
  return added, pattern, value, output


def sum_heads(output: Array) -> Array:  # [B, H, T, D] -> [B, T, D]
  """One by one: XLA's sum over this axis is eight times slower on CPU."""
  return functools.reduce(jnp.add, jnp.unstack(output, axis=1))


def _mix_in_blocks(
  query: Array,  # [B, H, T, K]
  key: Array,  # [B, H, S, K]
  value: Array,  # [B, H, S, K]
) -> Array:  # [B, H, T, K]
  """Pattern times value, a block of queries at a time.

  A block sees the keys up to its own last one alone, half of the work, and
  its scores stay in the cache. Queries are taken as [T, K], keys and values as
  [K, S]: what is summed over comes last on the left of most products then, as
  XLA's fast ones on CPU want it. Keys are split and joined, for the derivative
  of a slice is an array as large as all of them.
  """
  length = query.shape[2]
  sizes = [
    min(QUERY_BLOCK, length - first) for first in range(0, length, QUERY_BLOCK)
  ]
  queries = jax.lax.split(query, sizes, axis=2)
  keys, values = (
    jax.lax.split(x.swapaxes(2, 3), sizes, axis=3) for x in (key, value)
  )
  mixed = [
    _mix(block, *(jnp.concatenate(x[: i + 1], axis=3) for x in (keys, values)))
    for i, block in enumerate(queries)
  ]
  return jnp.concatenate(mixed, axis=2)


def _mix(
  query: Array,  # [B, H, T, K], the last T of S positions
  key: Array,  # [B, H, K, S]
  value: Array,  # [B, H, K, S]
) -> Array:  # [B, H, T, K]
  """Pattern times value, normalised last."""
  length, seen = query.shape[2], key.shape[3]
  score = jnp.einsum("bhtk,bhks->bhts", query, key)
  causal = jnp.tri(length, seen, k=seen - length, dtype=bool)[None, None]
  # Added, and not selected, a mask has no part in any derivative.
  score = score + jnp.where(causal, 0.0, -jnp.inf)
  # Any shift cancels below, so no derivative has to go through this one.
  shift = jax.lax.stop_gradient(jnp.max(score, axis=-1, keepdims=True))
  mass = jnp.exp(score - shift)  # [B, H, T, S], of which the pattern is
  mixed = jnp.einsum("bhts,bhks->bhtk", mass, value)
  return mixed / jnp.sum(mass, axis=-1, keepdims=True)


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


def _write(weights: Params, layer: int, mixed: Array) -> Array:
  """What a layer's heads add to the residual, [B, T, D], in one product.

  Summing each head's output instead costs B H T D memory and, on CPU, twice
  the whole forward pass.
  """
  w_o = weights["w_o"][layer]
  added = product(_join(mixed), w_o.reshape(-1, w_o.shape[-1]))
  return _shift(added, _layer(weights, "b_o", layer))


def _project(
  weights: Params, layer: int, x: Array, kinds: str
) -> list[Array]:  # [B, T, D] -> of each kind [B, H, T, K]
  """What all heads read of some kinds ("q", "k", "v"), in one product."""
  read = [weights[f"w_{kind}"][layer] for kind in kinds]  # [H, D, K] each
  n_heads, d_model, d_head = read[0].shape
  columns = [w.transpose(1, 0, 2).reshape(d_model, -1) for w in read]
  joined = product(x, jnp.concatenate(columns, axis=1))
  parts = jax.lax.split(joined, (n_heads * d_head,) * len(kinds), axis=2)
  split = [part.reshape(*x.shape[:2], n_heads, d_head) for part in parts]
  return [
    _shift(part, _layer(weights, f"b_{kind}", layer)).transpose(0, 2, 1, 3)
    for kind, part in zip(kinds, split)
  ]


def _join(mixed: Array) -> Array:  # [B, H, T, K] -> [B, T, H K]
  batch, n_heads, length, d_head = mixed.shape
  return mixed.transpose(0, 2, 1, 3).reshape(batch, length, n_heads * d_head)


def _mlp(
  config: ModelConfig,
  convention: Convention,
  weights: Params,
  layer: int,
  x: Array,  # [B, T, D]
) -> Array:
  x = _normalise(config, convention, weights, "mlp_norm", layer, x)
  b_in, b_out = (_layer(weights, name, layer) for name in ("b_in", "b_out"))
  hidden = _shift(product(x, weights["w_in"][layer]), b_in)  # [B, T, F]
  hidden = jax.nn.gelu(hidden, approximate=not convention.exact_gelu)
  return _shift(product(hidden, weights["w_out"][layer]), b_out)


def _layer(weights: Params, name: str, layer: int | None) -> Any:
  """One layer's part of a parameter, the whole of it, or nothing."""
  if layer is None or name not in weights:
    return weights.get(name)
  return weights[name][layer]


def _shift(x: Array, bias: Array | None) -> Array:  # [B, T, ...], [...]
  return x if bias is None else x + bias[None, None]


def _normalise(
  config: ModelConfig,
  convention: Convention,
  weights: Params,
  name: str,
  layer: int | None,
  x: Array,  # [B, T, D]
) -> Array:
  if config.norm == "none":
    return x
  scale = _layer(weights, f"{name}_scale", layer)
  x = _centre(config.norm, x)
  x = x * _inverse_size(x, convention.epsilon) * scale[None, None]
  return _shift(x, _layer(weights, f"{name}_bias", layer))


def inverse_sigma(
  norm: str, x: Array, epsilon: float = OWN_CONVENTION.epsilon
) -> Array:  # [..., D] -> [..., 1]
  """The number a norm multiplies a residual by; ones if it is "none".

  What is nonlinear in a norm: frozen, the norm is linear.
  """
  if norm == "none":
    return jnp.ones_like(x[..., :1])
  return _inverse_size(_centre(norm, x), epsilon)


def _centre(norm: str, x: Array) -> Array:
  if norm == "layernorm":
    x = x - x.mean(axis=-1, keepdims=True)
  return x


def _inverse_size(x: Array, epsilon: float) -> Array:  # [..., D] -> [..., 1]
  mean_square = jnp.mean(x**2, axis=-1, keepdims=True)
  return jax.lax.rsqrt(mean_square + epsilon)


def _smear(key: Array, smear: Array) -> Array:  # [B, H, S, K], [H]
  """Mixes each key with the one before it (Olsson et al. 2022, section on
  smeared keys): k_s <- a k_s + (1 - a) k_{s-1}, a = sigmoid(smear), k_0 as is.
  """
  gate = jax.nn.sigmoid(smear)[None, :, None, None]
  previous = jnp.concatenate([key[:, :, :1], key[:, :, :-1]], axis=2)
  return gate * key + (1 - gate) * previous


def rotate(
  x: Array,  # [..., T, K]
  offset: Array | int = 0,
  width: int | None = None,
  base: float = ROTARY_BASE,
) -> Array:
  """Rotary position embedding (Su et al. 2021, arXiv 2104.09864).

  Of the first W components (`width`, None is all K), component i is paired
  with component i + W / 2 (the GPT-NeoX layout) and turned by
  (t + offset) / base^(2 i / W), so that products of rotated queries and keys
  depend on t - s alone. The other components stay as they are.
  """
  width = x.shape[-1] if width is None else width
  half = width // 2
  frequency = base ** (-jnp.arange(half) / half)  # [W / 2]
  place = jnp.arange(x.shape[-2]) + offset  # [T]
  angle = place[:, None] * frequency[None, :]  # [T, W / 2]
  angle = jnp.expand_dims(angle, tuple(range(x.ndim - 2)))
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  a, b, rest = x[..., :half], x[..., half:width], x[..., width:]
  turned = [a * cos - b * sin, a * sin + b * cos]
  # Not an empty piece besides, so that a run's program stays what it was.
  turned += [rest] if rest.shape[-1] else []
  return jnp.concatenate(turned, axis=-1)
