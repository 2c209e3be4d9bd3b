"""Paths from tokens to logits, with everything nonlinear frozen.

If the attention patterns and the 1 / sigma of every norm are kept from one
forward pass, an attention-only network is linear in the embedded tokens: its
logits are a sum over paths, each through some of the heads (Elhage et al. 2021,
"A mathematical framework for transformer circuits").
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from induction_jax.circuits.weights import CircuitWeights, fold_norms
from induction_jax.types import Array, Params


class FrozenPass(NamedTuple):
  """The activations of one forward pass that are kept."""

  embedded: Array  # [B, T, D], the input of layer 0
  pattern: Array  # [L, B, H, T, S]
  output: Array  # [L, B, H, T, D], added to the residual
  inverse_sigma: Array  # [L + 1, B, T, 1], of each layer's norm and the last


class Attribution(NamedTuple):
  """Contributions to the target's logit minus the mean logit, in nats."""

  heads: Array  # [L, H, B, T]
  embedding: Array  # [B, T]


def direct_attribution(
  weights: CircuitWeights, frozen: FrozenPass, targets: Array
) -> Attribution:
  """The direct contribution of each head to the logit of the target.

  A head's output is multiplied by the frozen 1 / sigma of the final norm and by
  the unembedding. The contribution is to the target's logit minus the mean
  logit over the vocabulary, so raising all logits alike contributes nothing
  ("direct logit attribution": Elhage et al. 2021; Wang et al. 2022, arXiv
  2211.00593). In a network without MLPs the contributions sum to the target's
  logit minus the mean logit. Costs less than the pass.

  Args:
    weights: with norms folded in.
    frozen: the forward pass.
    targets: [B, T].
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
  """The logits of the paths of each order, summed, [L + 1, B, T, V].

  The order of a path is the number of heads that it goes through: 0 from the
  embedding straight to the unembedding, 1 through one head, 2 through a pair of
  composed heads. The partial sums over orders are the passes of the term
  importance analysis of Elhage et al. 2021; the sum over all orders is the
  logits of the forward pass.

  Costs about L + 1 passes without scores and softmax, and their residuals in
  memory; with `edit_output`, L times the outputs of a layer as well.

  Args:
    params: the model's parameters.
    norm: `layernorm`, `rmsnorm` or `none`.
    frozen: the forward pass.
    edit_output: the intervention on head outputs that was active in the pass,
      (layer, [B, H, T, D]) -> [B, H, T, D], linear in the outputs. It is
      applied to every path through a head.

  Raises:
    ValueError: if the network has MLPs, which are not linear in their input.
  """
  if "w_in" in params:
    raise ValueError(
      "paths have an order only in attention-only networks, d_mlp=0, got "
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
  """What the heads of a layer write, given the residual of each order."""
  read = residual * frozen.inverse_sigma[layer][None]
  value = jnp.einsum("nbsd,hdk->nbhsk", read, weights.w_v[layer])
  pattern = frozen.pattern[layer]
  mixed = jnp.einsum("bhts,nbhsk->nbhtk", pattern, value)
  if edit_output is None:
    return jnp.einsum("nbhtk,hkd->nbtd", mixed, weights.w_o[layer])
  output = jnp.einsum("nbhtk,hkd->nbhtd", mixed, weights.w_o[layer])
  return jnp.sum(jax.vmap(partial(edit_output, layer))(output), axis=2)
