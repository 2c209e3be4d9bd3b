"""Weights read as associative memories (Bietti et al. 2023, 2306.00802).

A matrix W stores pairs (x, y) where x^T W y is largest, among all candidates
y', at the right one; its recall is the share of the pairs it retrieves. Three
memories make an induction head: W_K1 finds the previous position, W_K2 the
token that the previous-token head has left a trace of, and W_O2 writes the
token attended to. There each is one trained matrix beside frozen, random
embeddings, queries and values; here all are trained, so each recall is that of
the product of weights that does the memory's work in a head.

Norms are folded (`fold_norms`) and their 1 / sigma dropped. Recall is an exact
share, in [0, 1]; ties count as missed unless the first candidate is right.
"""

import jax.numpy as jnp
from jax.typing import ArrayLike

from induction_jax.circuits.weights import CircuitWeights
from induction_jax.types import Array


def position_recall(
  positions: Array, w_q: Array, w_k: Array
) -> Array:  # [L, H]
  """W_K1: whether a position's query finds the previous position's key.

  The share of t >= 1 at which p_t W_Q W_K^T p_s^T is largest at s = t - 1
  among s <= t. (Bietti et al. take all s; here training never compares a
  query with later keys, so that these hold nothing.)

  Args:
    positions: [T, D], a vector for each position, as the heads read it.
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
  """Recall of a memory that retrieves any position s <= t, each as likely."""
  return jnp.mean(1 / jnp.arange(2, length + 1))


def key_recall(weights: CircuitWeights, tokens: ArrayLike) -> Array:
  """W_K2: whether a token's query finds the key that tells of that token.

  Through K-composition: the share of tokens k at which
  e_k W_Q (e_v W_V' W_O' W_K)^T is largest at v = k among the whole vocabulary,
  W_V' W_O' being the circuit of a head in an earlier layer which, attending to
  the previous token v, has left its trace. Null: 1 / V.

  Args:
    weights: the model's, with norms folded.
    tokens: [N], those to look for: the triggers where they are fixed, and else
      all.

  Returns:
    [L, H, L, H]: the reading head, then the writing one; nan unless the
    writer's layer comes first. Cost: N V products for each pair of heads.
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
  """W_O2: whether a head that attends to a token raises its logit the most.

  The share of tokens v at which e_v W_V W_O w_u is largest at u = v, over the
  whole vocabulary. Null: 1 / V. Cost: V^2 products for each head.
  """
  value = jnp.einsum("vd,lhdk->lhvk", weights.w_e, weights.w_v)
  written = jnp.einsum("lhvk,lhkd->lhvd", value, weights.w_o)
  logits = jnp.einsum("lhvd,du->lhvu", written, weights.w_u)
  return _share_retrieved(logits, jnp.arange(weights.w_e.shape[0]))


def _share_retrieved(score: Array, right: ArrayLike) -> Array:
  """Share of rows, [..., N, candidates], with the largest at `right` [N]."""
  found = jnp.argmax(score, axis=-1)
  hits = found == jnp.broadcast_to(right, found.shape)
  return jnp.mean(hits.astype(jnp.float32), axis=-1)
