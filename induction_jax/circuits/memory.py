"""Weights read as associative memories (Bietti et al. 2023, arXiv 2306.00802).

A matrix W stores a pair (x, y) if x^T W y' is largest at y' = y among all
candidates y'. Its recall is the share of pairs that it stores in this sense.
Three memories make an induction head: W_K1 finds the previous position, W_K2
finds the key that carries the previous-token head's copy of the current token,
and W_O2 writes the token attended to. In the paper each is one trained matrix
beside frozen random embeddings, queries and values. Here all weights are
trained, so each recall is that of the product of weights in the same place.

Norms are folded (`fold_norms`). Recall is an exact share, in [0, 1]. In a tie
the first candidate counts as the largest.
"""

import jax.numpy as jnp
from jax.typing import ArrayLike

from induction_jax.circuits.weights import CircuitWeights
from induction_jax.types import Array


def position_recall(
  positions: Array, w_q: Array, w_k: Array
) -> Array:  # [L, H]
  """Recall of W_K1: a position's query finds the previous position's key.

  The share of t >= 1 at which p_t W_Q W_K^T p_s^T is largest at s = t - 1
  among s <= t. (Bietti et al. take all s. Under the causal mask training never
  compares a query with later keys, so they are left out here.) Null:
  null_position_recall.

  Args:
    positions: [T, D], the vector of each position, as the heads read it.
    w_q: [L, H, D, K].
    w_k: [L, H, D, K].
  """
  query = jnp.einsum("td,lhdk->lhtk", positions, w_q)
  key = jnp.einsum("sd,lhdk->lhsk", positions, w_k)
  score = jnp.einsum("lhtk,lhsk->lhts", query, key)
  places = jnp.arange(positions.shape[0])
  causal = places[:, None] >= places[None, :]
  score = jnp.where(causal[None, None], score, -jnp.inf)
  return _share_retrieved(score[:, :, 1:], places[:-1])


def null_position_recall(length: int) -> Array:
  """Mean recall of a memory that retrieves a uniformly random s <= t."""
  return jnp.mean(1 / jnp.arange(2, length + 1))


def key_recall(weights: CircuitWeights, tokens: ArrayLike) -> Array:
  """Recall of W_K2: a token's query finds the key that carries that token.

  The share of tokens u at which e_u W_Q (e_v W_V' W_O' W_K)^T is largest at
  v = u over the vocabulary. W_V' W_O' is the OV circuit of a head in an earlier
  layer, which has attended to the previous token v and added e_v W_V' W_O' to
  the residual that the key reads (K-composition). Null: 1 / V.

  Args:
    weights: the model's, with norms folded.
    tokens: [N], the tokens u: the triggers if they are fixed, else all.

  Returns:
    [L, H, L, H], reading head then writing head; nan unless the writer's layer
    comes first. Cost: N V inner products for each pair of heads.
  """
  query = jnp.einsum(
    "nd,lhdk->lhnk", weights.w_e[jnp.asarray(tokens)], weights.w_q
  )
  value = jnp.einsum("vd,mgdj->mgvj", weights.w_e, weights.w_v)
  trace = jnp.einsum("mgvj,mgjd->mgvd", value, weights.w_o)
  key = jnp.einsum("mgvd,lhdk->lhmgvk", trace, weights.w_k)
  score = jnp.einsum("lhnk,lhmgvk->lhmgnv", query, key)
  recall = _share_retrieved(score, tokens)
  n_layers = weights.w_q.shape[0]
  earlier = jnp.tri(n_layers, k=-1, dtype=bool)[:, None, :, None]
  return jnp.where(earlier, recall, jnp.nan)


def output_recall(weights: CircuitWeights) -> Array:  # [L, H]
  """Recall of W_O2: attending to a token raises its own logit the most.

  The share of tokens v at which e_v W_V W_O w_u is largest at u = v over the
  vocabulary. Null: 1 / V. Cost: V^2 inner products for each head.
  """
  value = jnp.einsum("vd,lhdk->lhvk", weights.w_e, weights.w_v)
  written = jnp.einsum("lhvk,lhkd->lhvd", value, weights.w_o)
  logits = jnp.einsum("lhvd,du->lhvu", written, weights.w_u)
  return _share_retrieved(logits, jnp.arange(weights.w_e.shape[0]))


def _share_retrieved(score: Array, right: ArrayLike) -> Array:
  """Share of rows of `score` [..., N, V] with their maximum at `right` [N]."""
  found = jnp.argmax(score, axis=-1)
  hits = found == jnp.broadcast_to(right, found.shape)
  return jnp.mean(hits.astype(jnp.float32), axis=-1)
