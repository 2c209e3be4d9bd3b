"""One layer of heads: what they read, how they mix, what they write."""

import functools

import jax
import jax.numpy as jnp

from induction_jax.config import ModelConfig
from induction_jax.model.interface import ROTARY_BASE, Convention, Edits
from induction_jax.model.norm import normalise
from induction_jax.model.product import product, products
from induction_jax.model.weights import add_bias, of_layer
from induction_jax.types import Array, Params

# Queries whose scores are held at once where nobody asks for patterns.
QUERY_BLOCK = 64


def read_by_heads(
  config: ModelConfig,
  convention: Convention,
  weights: Params,
  layer: int,
  residual: Array,  # [B, T, D]
) -> tuple[Array, Array, Array]:
  """Queries, keys and values of one layer, [B, H, T, K].

  Queries come divided by sqrt(K), so that a score is a product with a key.
  """
  x = normalise(config, convention, weights, "norm", layer, residual)
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


def attend(
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
    added = add_bias(added, of_layer(weights, "b_o", layer))
  else:
    added = write_by_heads(weights, layer, mixed)
  return added, pattern, value, output


def sum_heads(output: Array) -> Array:  # [B, H, T, D] -> [B, T, D]
  """One by one: XLA's sum over this axis is eight times slower on CPU."""
  return functools.reduce(jnp.add, jnp.unstack(output, axis=1))


def mix_in_blocks(
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


def write_by_heads(weights: Params, layer: int, mixed: Array) -> Array:
  """What a layer's heads add to the residual, [B, T, D], in one product.

  Summing each head's output instead costs B H T D memory and, on CPU, twice
  the whole forward pass.
  """
  w_o = weights["w_o"][layer]
  added = product(_join(mixed), w_o.reshape(-1, w_o.shape[-1]))
  return add_bias(added, of_layer(weights, "b_o", layer))


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


def _mix(
  query: Array,  # [B, H, T, K], the last T of S positions
  key: Array,  # [B, H, K, S]
  value: Array,  # [B, H, K, S]
) -> Array:  # [B, H, T, K]
  """Pattern times value, normalised last."""
  length, seen = query.shape[2], key.shape[3]
  score = products(query, key)
  causal = jnp.tri(length, seen, k=seen - length, dtype=bool)[None, None]
  # Added, and not selected, a mask has no part in any derivative.
  score = score + jnp.where(causal, 0.0, -jnp.inf)
  # Any shift cancels below, so no derivative has to go through this one.
  shift = jax.lax.stop_gradient(jnp.max(score, axis=-1, keepdims=True))
  mass = jnp.exp(score - shift)  # [B, H, T, S], of which the pattern is
  mixed = products(mass, value, turned=True)
  return mixed / jnp.sum(mass, axis=-1, keepdims=True)


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
    add_bias(part, of_layer(weights, f"b_{kind}", layer)).transpose(0, 2, 1, 3)
    for kind, part in zip(kinds, split)
  ]


def _join(mixed: Array) -> Array:  # [B, H, T, K] -> [B, T, H K]
  batch, n_heads, length, d_head = mixed.shape
  return mixed.transpose(0, 2, 1, 3).reshape(batch, length, n_heads * d_head)


def _smear(key: Array, smear: Array) -> Array:  # [B, H, S, K], [H]
  """Mixes each key with the one before it (Olsson et al. 2022, section on
  smeared keys): k_s <- a k_s + (1 - a) k_{s-1}, a = sigmoid(smear), k_0 as is.
  """
  gate = jax.nn.sigmoid(smear)[None, :, None, None]
  previous = jnp.concatenate([key[:, :, :1], key[:, :, :-1]], axis=2)
  return gate * key + (1 - gate) * previous
