"""Causal evidence: heads ablated or idealised, pairs of heads, paths."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from induction_jax import circuits
from induction_jax.config import Config
from induction_jax.measurements.ablation_variables import (
  KINDS,
  TOKENS,
  VARIABLES,
)
from induction_jax.measurements.curvature import Curvature
from induction_jax.measurements.measurement import Inputs, Measurement
from induction_jax.model import (
  NO_EDITS,
  Activations,
  Edits,
  Model,
  Resumption,
  inverse_sigma,
  sum_heads,
)
from induction_jax.model.losses import token_losses
from induction_jax.types import Array, Batch, Params

Arrays = dict[str, Array]


class _Intact(NamedTuple):
  """The network before anything is done to it."""

  params: Params
  batch: Batch
  losses: Array  # [B, T]
  activations: Activations
  weights: dict[str, Array]  # [B, T], which tokens count, by suffix


def make_ablation(config: Config, model: Model, _: Curvature) -> Measurement:
  """What heads and paths are worth: changes of the loss on `repeats`.

  Cost: 5 H L (L - 1) / 2 layers of attention on `ablation.batch_size`
  sequences and 5 L H unembeddings; with `ablation.pairs` another
  H L (L - 1) / 2 layers, H^2 L (L - 1) (L - 2) / 6 where a layer lies between
  or after, and an unembedding for every pair of heads in different layers. One
  after the other, in the memory of one. Paths are left out with MLPs.
  """
  c = config.ablation

  def nulls(_: Inputs) -> Arrays:
    guess = jnp.log(jnp.float32(config.task.vocab_size))
    values = {v.name: jnp.float32(0) for v in VARIABLES if not v.dims}
    return values | {f"path_loss{suffix}_null": guess for suffix in TOKENS}

  def measure(inputs: Inputs) -> Arrays:
    params = inputs.state.params
    batch = jax.tree.map(lambda x: x[: c.batch_size], inputs.batches.induction)
    logits, activations = model.apply(params, batch.tokens)
    predictable = batch.predictable.astype(logits.dtype)
    intact = _Intact(
      params=params,
      batch=batch,
      losses=token_losses(logits, batch.targets),
      activations=activations,
      weights={"": predictable, "_random": 1 - predictable},
    )
    values = _intervene(model, intact, c.pairs)
    values |= _follow_paths(config, model, intact)
    return values

  return Measurement(
    name="ablation",
    interval=c.interval,
    variables=VARIABLES,
    coordinates={"path_order": range(config.model.n_layers + 1)},
    measure=measure,
    nulls=nulls,
  )


def _intervene(model: Model, intact: _Intact, pairs: bool) -> Arrays:
  """Costs of everything that is done to one head, and of silencing two."""
  layers = range(intact.params["w_o"].shape[0])
  singles = [_change_heads(model, intact, layer) for layer in layers]
  costs = jax.tree.map(lambda *x: jnp.stack(x, axis=1), *singles)
  silenced = _silence_pairs(model, intact) if pairs else {}
  values: Arrays = {}
  for suffix in TOKENS:
    for kind in KINDS:
      index = circuits.KINDS.index(kind)
      cost = jax.tree.map(lambda x, i=index: x[i], costs[suffix])
      values |= _with_error(f"{kind}_cost{suffix}", cost)
    if pairs:
      alone = values[f"ablation_cost{suffix}"]
      cost = silenced[suffix]
      name = f"pair_ablation_cost{suffix}"
      both = alone[:, :, None, None] + alone[None, None]
      values |= _with_error(name, cost)
      values[f"{name}_null"] = jnp.where(jnp.isnan(cost.mean), jnp.nan, both)
  return values


def _change_heads(
  model: Model, intact: _Intact, layer: int
) -> dict[str, circuits.Estimate]:
  """Costs of all that is done to one head of a layer, [kinds, H].

  What is before the layer, and its other heads, stay as they were.
  """
  did, tokens, clamp = (
    intact.activations,
    intact.batch.tokens,
    model.clamps.output,
  )
  output = did.output[layer]  # [B, H, T, D], as added: clamped where heads are
  mean, added = jnp.mean(output, axis=(0, 2)), sum_heads(output)

  def cost(row: tuple[Array, Array]) -> dict[str, circuits.Estimate]:
    kind, head = row

    def write(mixed: Array) -> Array:  # [B, T, K] -> [B, T, D]
      written = mixed @ intact.params["w_o"][layer, head]
      if clamp is None:
        return written
      spread = jnp.broadcast_to(written[:, None], output.shape)
      return clamp(layer, spread)[:, head]

    def freeze(later: int, pattern: Array, _: Array) -> Array:
      frozen = kind == circuits.KINDS.index(circuits.FROZEN)
      return jnp.where(frozen, did.pattern[later], pattern)

    changed = circuits.changed_output(
      kind,
      did.pattern[layer][:, head],
      did.value[layer][:, head],
      write,
      mean[head],
      tokens,
    )
    instead = added - output[:, head] + changed
    return _rise(model, intact, layer, did.residual[layer], instead, freeze)

  n_kinds, n_heads = len(circuits.KINDS), output.shape[1]
  kinds, heads = np.indices((n_kinds, n_heads)).reshape(2, -1)
  costs = jax.lax.map(cost, (jnp.asarray(kinds), jnp.asarray(heads)))
  return jax.tree.map(lambda x: x.reshape(n_kinds, n_heads), costs)


def _silence_pairs(
  model: Model, intact: _Intact
) -> dict[str, circuits.Estimate]:
  """Costs of silencing two heads, [L, H, L, H]: the later one, the earlier.

  nan unless the second's layer is before the first's. A pass without the
  earlier head serves all later ones.
  """
  did = intact.activations
  n_layers, _, n_heads = did.output.shape[:3]
  heads = jnp.arange(n_heads)

  def without(layer: int, head: Array) -> list[dict[str, circuits.Estimate]]:
    output = did.output[layer]
    added = sum_heads(output) - output[:, head]
    resumption = Resumption(layer, did.residual[layer], added)
    tokens = intact.batch.tokens
    _, after = model.apply(intact.params, tokens, NO_EDITS, resumption)
    return [
      _silence_each(model, intact, later, after.residual[i], after.output[i])
      for i, later in enumerate(range(layer + 1, n_layers))
    ]

  shape = (n_layers, n_heads) * 2
  nothing = circuits.Estimate(*[jnp.full(shape, jnp.nan)] * 2)
  costs = dict.fromkeys(TOKENS, nothing)
  for layer in range(n_layers - 1):
    found = jax.lax.map(partial(without, layer), heads)  # [H, later H] of each
    for later, each in enumerate(found, layer + 1):
      costs = jax.tree.map(
        lambda table, x, a=layer, b=later: table.at[b, :, a].set(x.T),
        costs,
        each,
      )
  return costs


def _silence_each(
  model: Model, intact: _Intact, layer: int, residual: Array, output: Array
) -> dict[str, circuits.Estimate]:
  """Costs of silencing each head of a layer in a changed pass, [H]."""
  added = sum_heads(output)

  def cost(head: Array) -> dict[str, circuits.Estimate]:
    return _rise(model, intact, layer, residual, added - output[:, head])

  return jax.lax.map(cost, jnp.arange(output.shape[1]))


def _rise(
  model: Model,
  intact: _Intact,
  layer: int,
  residual: Array,
  added: Array,
  pattern: Callable[[int, Array, Array], Array] | None = None,
) -> dict[str, circuits.Estimate]:
  """The rise of the loss where the heads of a layer have added this.

  With an edit of the patterns of later layers, if any.
  """
  resumption = Resumption(layer, residual, added)
  logits, _ = model.apply(
    intact.params, intact.batch.tokens, Edits(pattern), resumption
  )
  rise = token_losses(logits, intact.batch.targets) - intact.losses
  return {
    suffix: circuits.estimate_mean(rise, weights)
    for suffix, weights in intact.weights.items()
  }


def _follow_paths(config: Config, model: Model, intact: _Intact) -> Arrays:
  """The loss by order of path, and what goes straight to the target."""
  norm, (_, batch, _, activations, weights) = config.model.norm, intact
  frozen = circuits.FrozenPass(
    embedded=activations.residual[0],
    pattern=activations.pattern,
    output=activations.output,
    inverse_sigma=inverse_sigma(norm, activations.residual),
  )
  folded = circuits.fold_norms(intact.params, norm)
  parts = circuits.direct_attribution(folded, frozen, batch.targets)
  values: Arrays = {}
  for name, part in (
    ("direct_attribution", parts.heads),
    ("embedding_attribution", parts.embedding),
  ):
    values |= _with_error(name, circuits.estimate_mean(part, weights[""]))
  if config.model.d_mlp:
    return values

  clamp = model.clamps.output
  orders = circuits.path_logits(intact.params, norm, frozen, clamp)
  sums = jnp.cumsum(orders, axis=0)  # paths of up to n heads
  losses = jax.vmap(token_losses, (0, None))(sums, batch.targets)
  # No path at all is a uniform guess.
  guess = jnp.full((1, *losses.shape[1:]), jnp.log(sums.shape[-1]))
  gains = jnp.concatenate([guess, losses[:-1]]) - losses
  for suffix, w in weights.items():
    loss = circuits.estimate_mean(losses, w)
    gain = circuits.estimate_mean(gains, w)
    values |= _with_error(f"path_loss{suffix}", loss)
    values |= _with_error(f"path_importance{suffix}", gain)
  return values


def _with_error(name: str, estimate: circuits.Estimate) -> Arrays:
  return {name: estimate.mean, f"{name}_se": estimate.standard_error}
