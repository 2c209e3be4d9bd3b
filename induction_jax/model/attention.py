"""The heads of one layer: queries, keys, values, patterns, outputs."""

import functools

import jax
import jax.numpy as jnp

from induction_jax.config import ModelConfig
from induction_jax.model.interface import (
  ROTARY_BASE,
  Convention,
  Edits,
  add_bias,
  of_layer,
)
from induction_jax.model.product import product, products
from induction_jax.types import Array, Params

# Queries in a block of blockwise_attention.
QUERY_BLOCK = 64


def queries_keys_values(
  config: ModelConfig,
  convention: Convention,
  weights: Params,
  layer: int,
  x: Array,  # [B, T, D], normalised
) -> tuple[Array, Array, Array]:
  """Queries, keys and values of one layer, [B, H, T, K].

  Queries are divided by sqrt(K), so a score is the product with a key.
  """
  # Shortformer positions are added to the input of queries and keys only.
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


def attention_by_head(
  weights: Params,
  layer: int,
  query: Array,  # [B, H, T, K]
  key: Array,  # [B, H, S, K]
  value: Array,  # [B, H, S, K]
  tokens: Array,  # [B, T]
  edits: Edits,
) -> tuple[Array, Array, Array, Array]:
  """Attention that computes, and may edit, every head's pattern and output.

  Returns:
    What the heads add to the residual [B, T, D]; patterns [B, H, T, S]; values
    [B, H, S, K]; and outputs by head [B, H, T, D].
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
    added = output_projection(weights, layer, mixed)
  return added, pattern, value, output


def sum_heads(output: Array) -> Array:  # [B, H, T, D] -> [B, T, D]
  """Sum over heads, head by head: eight times faster on a CPU than jnp.sum."""
  return functools.reduce(jnp.add, jnp.unstack(output, axis=1))


def blockwise_attention(
  query: Array,  # [B, H, T, K]
  key: Array,  # [B, H, S, K]
  value: Array,  # [B, H, S, K]
) -> Array:  # [B, H, T, K]
  """Patterns times values, computed for one block of queries at a time.

  A block is multiplied only with the keys up to its own last one, which halves
  the work, and its scores stay in the cache. Queries are passed on as [T, K],
  keys and values as [K, S]. In most products the summed axis is then the last
  of the left factor, which XLA multiplies fastest on a CPU. Keys are split and
  concatenated because the derivative of a slice is an array as large as all
  keys.
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
    _attention(
      block, *(jnp.concatenate(x[: i + 1], axis=3) for x in (keys, values))
    )
    for i, block in enumerate(queries)
  ]
  return jnp.concatenate(mixed, axis=2)


def output_projection(weights: Params, layer: int, mixed: Array) -> Array:
  """What the heads of a layer add to the residual, [B, T, D], in one product.

  Summing outputs by head instead takes B H T D memory and, on a CPU, twice the
  time of the whole forward pass.

  Args:
    weights: the parameters.
    layer: index of the layer.
    mixed: patterns times values, [B, H, T, K].
  """
  w_o = weights["w_o"][layer]
  added = product(_join_heads(mixed), w_o.reshape(-1, w_o.shape[-1]))
  return add_bias(added, of_layer(weights, "b_o", layer))


def rotate(
  x: Array,  # [..., T, K]
  offset: Array | int = 0,
  width: int | None = None,
  base: float = ROTARY_BASE,
) -> Array:
  """Rotary position embedding (Su et al. 2021, arXiv 2104.09864).

  Component i of the first W is paired with component i + W / 2, as in GPT-NeoX,
  and the pair is rotated by the angle (t + offset) / base^(2 i / W). Products
  of rotated queries and keys then depend on positions through t - s only.

  Args:
    x: queries or keys.
    offset: added to every position.
    width: W; None: K. The other components are not rotated.
    base: of the frequencies.
  """
  width = x.shape[-1] if width is None else width
  half = width // 2
  frequency = base ** (-jnp.arange(half) / half)  # [W / 2]
  position = jnp.arange(x.shape[-2]) + offset  # [T]
  angle = position[:, None] * frequency[None, :]  # [T, W / 2]
  angle = jnp.expand_dims(angle, tuple(range(x.ndim - 2)))
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  a, b, rest = x[..., :half], x[..., half:width], x[..., width:]
  rotated = [a * cos - b * sin, a * sin + b * cos]
  # An empty array would change the compiled program of runs with full rotation.
  rotated += [rest] if rest.shape[-1] else []
  return jnp.concatenate(rotated, axis=-1)


def _attention(
  query: Array,  # [B, H, T, K], the last T of S positions
  key: Array,  # [B, H, K, S]
  value: Array,  # [B, H, K, S]
) -> Array:  # [B, H, T, K]
  """Computes softmax(scores) @ values as (exp(scores) @ values) / sum."""
  length, seen = query.shape[2], key.shape[3]
  score = products(query, key)
  causal = jnp.tri(length, seen, k=seen - length, dtype=bool)[None, None]
  # A mask that is added, not selected by, does not appear in derivatives.
  score = score + jnp.where(causal, 0.0, -jnp.inf)
  # The shift cancels below, so no derivative needs to go through it.
  shift = jax.lax.stop_gradient(jnp.max(score, axis=-1, keepdims=True))
  mass = jnp.exp(score - shift)  # [B, H, T, S], proportional to the pattern
  mixed = products(mass, value, transposed=True)
  return mixed / jnp.sum(mass, axis=-1, keepdims=True)


def _project(
  weights: Params, layer: int, x: Array, kinds: str
) -> list[Array]:  # [B, T, D] -> for each kind [B, H, T, K]
  """Some of queries, keys and values ("q", "k", "v"), in one product."""
  w = [weights[f"w_{kind}"][layer] for kind in kinds]  # [H, D, K] each
  n_heads, d_model, d_head = w[0].shape
  columns = [each.transpose(1, 0, 2).reshape(d_model, -1) for each in w]
  joined = product(x, jnp.concatenate(columns, axis=1))
  parts = jax.lax.split(joined, (n_heads * d_head,) * len(kinds), axis=2)
  split = [part.reshape(*x.shape[:2], n_heads, d_head) for part in parts]
  return [
    add_bias(part, of_layer(weights, f"b_{kind}", layer)).transpose(0, 2, 1, 3)
    for kind, part in zip(kinds, split)
  ]


def _join_heads(mixed: Array) -> Array:  # [B, H, T, K] -> [B, T, H K]
  batch, n_heads, length, d_head = mixed.shape
  return mixed.transpose(0, 2, 1, 3).reshape(batch, length, n_heads * d_head)


def _smear(key: Array, smear: Array) -> Array:  # [B, H, S, K], [H]
  """Smeared keys (Olsson et al. 2022): each is mixed with the one before it.

  k_s <- a k_s + (1 - a) k_{s-1} with a = sigmoid(smear); k_0 is unchanged.
  """
  gate = jax.nn.sigmoid(smear)[None, :, None, None]
  previous = jnp.concatenate([key[:, :, :1], key[:, :, :-1]], axis=2)
  return gate * key + (1 - gate) * previous
