"""Paths from tokens to logits, with what is nonlinear frozen.

With the attention patterns and every norm's 1 / sigma kept as they were in one
pass, a network of attention alone is linear in the embedded tokens: its logits
are a sum over paths, each through some of the heads (Elhage et al. 2021, "A
mathematical framework for transformer circuits").
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from induction_jax.circuits.weights import CircuitWeights, fold_norms
from induction_jax.types import Array, Params


class FrozenPass(NamedTuple):
  """What one pass of the network did."""

  embedded: Array  # [B, T, D], what enters layer 0
  pattern: Array  # [L, B, H, T, S]
  output: Array  # [L, B, H, T, D], what each head added
  inverse_sigma: Array  # [L + 1, B, T, 1], of the layers and the final norm


class Attribution(NamedTuple):
  """Parts of the target's logit, over the mean logit; nats."""

  heads: Array  # [L, H, B, T]
  embedding: Array  # [B, T]


def direct_attribution(
  weights: CircuitWeights, frozen: FrozenPass, targets: Array
) -> Attribution:
  """What each head adds to the logit of the target by itself.

  A head's output goes through the final norm, its 1 / sigma that of the pass,
  and through the unembedding; counted is the target's logit less the mean over
  the vocabulary, so that what raises all logits alike counts nothing ("direct
  logit attribution": Elhage et al. 2021; Wang et al. 2022, arXiv 2211.00593).
  Without MLPs the parts sum to the target's logit less the mean logit.

  Args:
    weights: with norms folded in.
    frozen: the pass.
    targets: [B, T].

  Cost: below that of the pass.
  """
  to_token = weights.w_u.T - jnp.mean(weights.w_u, axis=1)[None]  # [V, D]
  direction = to_token[targets] * frozen.inverse_sigma[-1]  # [B, T, D]
  return Attribution(
    heads=jnp.einsum("lbhtd,btd->lhbt", frozen.output, direction),
    embedding=jnp.sum(frozen.embedded * direction, axis=-1),
  )


def path_logits(
  params: Params,
  norm: str,
  frozen: FrozenPass,
  edit_output: Callable[[int, Array], Array] | None = None,
) -> Array:
  """The logits that paths of each order make, [L + 1, B, T, V].

  Order n is the number of heads a path goes through: order 0 is the embedding
  straight to the unembedding, order 1 every head by itself, order 2 every pair
  of composed heads. The partial sums are the passes of the term importance
  analysis of Elhage et al. 2021; the sum over all orders is the pass itself.

  Args:
    params: the model's parameters.
    norm: `layernorm`, `rmsnorm` or `none`.
    frozen: the pass.
    edit_output: what the pass did to outputs, (layer, [B, H, T, D]) -> same,
      linear in them: a path through a head goes through its edit. Of a mean
      over sequences that is the mean of the path in all of them.

  Cost: about L + 1 passes, without scores or softmax, and their residuals;
  with an edit, L times the outputs of a layer as well.

  Raises:
    ValueError: with MLPs, which are not linear in what they read: no order.
  """
  if "w_in" in params:
    raise ValueError(
      "paths have an order in networks of attention alone, d_mlp=0, got "
      f"d_mlp={params['w_in'].shape[-1]}"
    )
  weights = fold_norms(params, norm)
  n_layers = weights.w_o.shape[0]
  orders = jnp.zeros((n_layers + 1, *frozen.embedded.shape))
  orders = orders.at[0].set(frozen.embedded)  # [order, B, T, D]
  for layer in range(n_layers):
    written = _write(weights, frozen, layer, orders[:-1], edit_output)
    orders = orders.at[1:].add(written)
  return (orders * frozen.inverse_sigma[-1][None]) @ weights.w_u


def _write(
  weights: CircuitWeights,
  frozen: FrozenPass,
  layer: int,
  residual: Array,  # [order, B, T, D]
  edit_output: Callable[[int, Array], Array] | None,
) -> Array:  # [order, B, T, D]
  """What a layer's heads write when they read these residuals."""
  read = residual * frozen.inverse_sigma[layer][None]
  value = jnp.einsum("nbsd,hdk->nbhsk", read, weights.w_v[layer])
  pattern = frozen.pattern[layer]
  mixed = jnp.einsum("bhts,nbhsk->nbhtk", pattern, value)
  if edit_output is None:
    return jnp.einsum("nbhtk,hkd->nbtd", mixed, weights.w_o[layer])
  output = jnp.einsum("nbhtk,hkd->nbhtd", mixed, weights.w_o[layer])
  return jnp.sum(jax.vmap(partial(edit_output, layer))(output), axis=2)
