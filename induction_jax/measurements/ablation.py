"""Ablation: what heads, pairs of heads and paths contribute to the loss."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from induction_jax import circuits
from induction_jax.config import Config
from induction_jax.measurements.curvature import Curvature
from induction_jax.measurements.measurement import (
  PER_HEAD,
  PER_PAIR,
  Inputs,
  Measurement,
)
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
from induction_jax.types import Array, Batch, Params, Variable

Arrays = dict[str, Array]

PER_ORDER = ("step", "path_order")
# Interventions on one head, by their names in circuits/ablation.py.
KINDS = {
  "ablation": "head zero-ablated",
  "mean_ablation": "head mean-ablated",
  "frozen_ablation": "head zero-ablated, all patterns kept",
  "previous_token_pattern": "head attends to the previous token only",
  "induction_pattern": "head attends to successors of earlier copies only",
}
# Names without a suffix refer to predictable tokens of `repeats`, and names
# with this suffix to the other tokens.
TOKENS = {"": "predictable tokens", "_random": "other tokens"}


def _estimate(
  name: str,
  dims: tuple[str, ...],
  long: str,
  null: str,
  null_dims: tuple[str, ...] = (),
) -> tuple[Variable, ...]:
  """A mean over tokens, its standard error over sequences, its null value."""
  return (
    Variable(name, dims, long, "nats"),
    Variable(f"{name}_se", dims, f"standard error of {long}", "nats"),
    Variable(f"{name}_null", null_dims, f"{long}: {null}", "nats"),
  )


def _for_tokens(suffix: str, tokens: str) -> tuple[Variable, ...]:
  rise = f"loss increase, {tokens}"
  heads = (
    _estimate(f"{kind}_cost{suffix}", PER_HEAD, f"{rise}, {long}", "no effect")
    for kind, long in KINDS.items()
  )
  return (
    *(variable for each in heads for variable in each),
    *_estimate(
      f"pair_ablation_cost{suffix}",
      PER_PAIR,
      f"{rise}, two heads zero-ablated",
      "sum of both alone",
      PER_PAIR,
    ),
    *_estimate(
      f"path_loss{suffix}",
      PER_ORDER,
      f"loss, {tokens}, paths through at most n heads",
      "uniform guess",
    ),
    *_estimate(
      f"path_importance{suffix}",
      PER_ORDER,
      f"loss decrease, {tokens}, adding paths through n heads",
      "no effect",
    ),
  )


DIRECT = "direct contribution of {} to target logit minus mean logit"
VARIABLES = (
  *(
    v for suffix, tokens in TOKENS.items() for v in _for_tokens(suffix, tokens)
  ),
  *_estimate(
    "direct_attribution", PER_HEAD, DIRECT.format("a head"), "random token"
  ),
  *_estimate(
    "embedding_attribution",
    ("step",),
    DIRECT.format("the embedding"),
    "random token",
  ),
)


class _Baseline(NamedTuple):
  """The forward pass without intervention."""

  params: Params
  batch: Batch
  losses: Array  # [B, T]
  activations: Activations
  weights: dict[str, Array]  # [B, T], 1 for tokens that count, by suffix


def make_ablation(config: Config, model: Model, _: Curvature) -> Measurement:
  """Makes the measurement of loss changes on `repeats` under interventions.

  Cost: 5 H L (L - 1) / 2 layers of attention on `ablation.batch_size`
  sequences and 5 L H unembeddings. `ablation.pairs` adds H L (L - 1) / 2
  layers, H^2 L (L - 1) (L - 2) / 6 layers between and above the two heads, and
  an unembedding for every pair of heads in different layers. Interventions run
  one after another, in the memory of one. Paths are skipped with MLPs.
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
    baseline = _Baseline(
      params=params,
      batch=batch,
      losses=token_losses(logits, batch.targets),
      activations=activations,
      weights={"": predictable, "_random": 1 - predictable},
    )
    values = _ablate(model, baseline, c.pairs)
    values |= _follow_paths(config, model, baseline)
    return values

  return Measurement(
    name="ablation",
    interval=c.interval,
    variables=VARIABLES,
    coordinates={"path_order": range(config.model.n_layers + 1)},
    measure=measure,
    nulls=nulls,
  )


def _ablate(model: Model, baseline: _Baseline, pairs: bool) -> Arrays:
  """Costs of every intervention on one head, and of ablating two heads."""
  layers = range(baseline.params["w_o"].shape[0])
  by_layer = [_change_heads(model, baseline, layer) for layer in layers]
  costs = jax.tree.map(lambda *x: jnp.stack(x, axis=1), *by_layer)
  pair_costs = _ablate_pairs(model, baseline) if pairs else {}
  values: Arrays = {}
  for suffix in TOKENS:
    for kind in KINDS:
      index = circuits.KINDS.index(kind)
      cost = jax.tree.map(lambda x, i=index: x[i], costs[suffix])
      values |= _with_error(f"{kind}_cost{suffix}", cost)
    if pairs:
      alone = values[f"ablation_cost{suffix}"]
      cost = pair_costs[suffix]
      name = f"pair_ablation_cost{suffix}"
      both = alone[:, :, None, None] + alone[None, None]
      values |= _with_error(name, cost)
      values[f"{name}_null"] = jnp.where(jnp.isnan(cost.mean), jnp.nan, both)
  return values


def _change_heads(
  model: Model, baseline: _Baseline, layer: int
) -> dict[str, circuits.Estimate]:
  """Costs of every intervention on each head of a layer, [kinds, H].

  Earlier layers and the other heads of the layer keep their outputs.
  """
  tokens, clamp = baseline.batch.tokens, model.clamps.output
  activations = baseline.activations
  # Clamped already, where the config clamps heads.
  output = activations.output[layer]  # [B, H, T, D]
  mean, added = jnp.mean(output, axis=(0, 2)), sum_heads(output)

  def cost(row: tuple[Array, Array]) -> dict[str, circuits.Estimate]:
    kind, head = row

    def write(mixed: Array) -> Array:  # [B, T, K] -> [B, T, D]
      written = mixed @ baseline.params["w_o"][layer, head]
      if clamp is None:
        return written
      spread = jnp.broadcast_to(written[:, None], output.shape)
      return clamp(layer, spread)[:, head]

    def freeze(later: int, pattern: Array, _: Array) -> Array:
      frozen = kind == circuits.KINDS.index(circuits.FROZEN)
      return jnp.where(frozen, activations.pattern[later], pattern)

    changed = circuits.changed_output(
      kind,
      activations.pattern[layer][:, head],
      activations.value[layer][:, head],
      write,
      mean[head],
      tokens,
    )
    residual = activations.residual[layer]
    instead = added - output[:, head] + changed
    return _loss_increase(model, baseline, layer, residual, instead, freeze)

  n_kinds, n_heads = len(circuits.KINDS), output.shape[1]
  kinds, heads = np.indices((n_kinds, n_heads)).reshape(2, -1)
  costs = jax.lax.map(cost, (jnp.asarray(kinds), jnp.asarray(heads)))
  return jax.tree.map(lambda x: x.reshape(n_kinds, n_heads), costs)


def _ablate_pairs(
  model: Model, baseline: _Baseline
) -> dict[str, circuits.Estimate]:
  """Costs of zero-ablating two heads, [later L, H, earlier L, H].

  Entries are nan unless the second layer is before the first. One forward pass
  without the earlier head serves all later heads.
  """
  activations = baseline.activations
  n_layers, _, n_heads = activations.output.shape[:3]
  heads = jnp.arange(n_heads)

  def without(layer: int, head: Array) -> list[dict[str, circuits.Estimate]]:
    output = activations.output[layer]
    added = sum_heads(output) - output[:, head]
    resumption = Resumption(layer, activations.residual[layer], added)
    tokens = baseline.batch.tokens
    _, after = model.apply(baseline.params, tokens, NO_EDITS, resumption)
    return [
      _ablate_each(model, baseline, later, after.residual[i], after.output[i])
      for i, later in enumerate(range(layer + 1, n_layers))
    ]

  shape = (n_layers, n_heads) * 2
  empty = circuits.Estimate(*[jnp.full(shape, jnp.nan)] * 2)
  costs = dict.fromkeys(TOKENS, empty)
  for layer in range(n_layers - 1):
    found = jax.lax.map(partial(without, layer), heads)  # each [H, later H]
    for later, each in enumerate(found, layer + 1):
      costs = jax.tree.map(
        lambda table, x, a=layer, b=later: table.at[b, :, a].set(x.T),
        costs,
        each,
      )
  return costs


def _ablate_each(
  model: Model, baseline: _Baseline, layer: int, residual: Array, output: Array
) -> dict[str, circuits.Estimate]:
  """Costs of zero-ablating each head of a layer in a changed pass, [H]."""
  added = sum_heads(output)

  def cost(head: Array) -> dict[str, circuits.Estimate]:
    rest = added - output[:, head]
    return _loss_increase(model, baseline, layer, residual, rest)

  return jax.lax.map(cost, jnp.arange(output.shape[1]))


def _loss_increase(
  model: Model,
  baseline: _Baseline,
  layer: int,
  residual: Array,
  added: Array,
  pattern: Callable[[int, Array, Array], Array] | None = None,
) -> dict[str, circuits.Estimate]:
  """How much the loss increases if the heads of a layer add `added`.

  Later layers are computed anew, with `pattern` as an edit of their attention.
  """
  resumption = Resumption(layer, residual, added)
  logits, _ = model.apply(
    baseline.params, baseline.batch.tokens, Edits(pattern), resumption
  )
  rise = token_losses(logits, baseline.batch.targets) - baseline.losses
  return {
    suffix: circuits.estimate_mean(rise, weights)
    for suffix, weights in baseline.weights.items()
  }


def _follow_paths(config: Config, model: Model, baseline: _Baseline) -> Arrays:
  """Losses by path order, and direct contributions to the target's logit."""
  norm, (_, batch, _, activations, weights) = config.model.norm, baseline
  frozen = circuits.FrozenPass(
    embedded=activations.residual[0],
    pattern=activations.pattern,
    output=activations.output,
    inverse_sigma=inverse_sigma(norm, activations.residual),
  )
  folded = circuits.fold_norms(baseline.params, norm)
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
  orders = circuits.path_logits(baseline.params, norm, frozen, clamp)
  sums = jnp.cumsum(orders, axis=0)  # paths through at most n heads
  losses = jax.vmap(token_losses, (0, None))(sums, batch.targets)
  # Without any path the network guesses uniformly.
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
