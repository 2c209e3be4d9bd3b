"""Causal evidence: heads ablated or idealised, pairs of heads, paths."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from induction_jax import circuits
from induction_jax.config import Config
from induction_jax.losses import token_losses
from induction_jax.model import Activations, Edits, Model, inverse_sigma
from induction_jax.probes.ablation_variables import KINDS, TOKENS, VARIABLES
from induction_jax.probes.held_out import HeldOut
from induction_jax.probes.probe import Probe
from induction_jax.state import TrainState
from induction_jax.types import Array, Batch, Params, PyTree

Arrays = dict[str, Array]


class _Intact(NamedTuple):
  """The network before anything is done to it."""

  params: Params
  batch: Batch
  losses: Array  # [B, T]
  activations: Activations
  weights: dict[str, Array]  # [B, T], which tokens count, by suffix


def make_ablation_probe(config: Config, model: Model) -> Probe:
  """What heads and paths are worth: changes of the loss on `repeats`.

  Cost: 5 L H forward passes of `ablation.batch_size` sequences, and one for
  every pair of heads in different layers, H^2 L (L - 1) / 2, with
  `ablation.pairs`; one after the other, in the memory of one. Paths are left
  out with MLPs.
  """
  c = config.ablation

  def constants(_: TrainState, __: HeldOut) -> Arrays:
    guess = jnp.log(jnp.float32(config.task.vocab_size))
    values = {v.name: jnp.float32(0) for v in VARIABLES if not v.dims}
    return values | {f"path_loss{suffix}_null": guess for suffix in TOKENS}

  def measure(
    state: TrainState, held_out: HeldOut, _: PyTree, carry: PyTree
  ) -> tuple[Arrays, PyTree]:
    batch = jax.tree.map(lambda x: x[: c.batch_size], held_out.induction)
    logits, activations = model.apply(state.params, batch.tokens)
    predictable = batch.predictable.astype(logits.dtype)
    intact = _Intact(
      params=state.params,
      batch=batch,
      losses=token_losses(logits, batch.targets),
      activations=activations,
      weights={"": predictable, "_random": 1 - predictable},
    )
    values = _intervene(model, intact, c.pairs)
    values |= _follow_paths(config, model, intact)
    return values, carry

  return Probe(
    name="ablation",
    interval=c.interval,
    variables=VARIABLES,
    coordinates={"path_order": range(config.model.n_layers + 1)},
    constants=constants,
    measure=measure,
  )


def _intervene(model: Model, intact: _Intact, pairs: bool) -> Arrays:
  """Costs of everything that is done to one head, and of silencing two."""
  shape = n_layers, n_heads = intact.params["w_o"].shape[:2]
  # Of outputs as they were added: those of a clamped head are clamped.
  mean = jnp.mean(intact.activations.output, axis=(1, 3))
  seen = circuits.Intact(intact.activations.pattern, mean)

  def losses(intervention: circuits.Intervention) -> Array:
    edits = Edits(
      circuits.edit_pattern(intervention, seen),
      circuits.edit_output(intervention, seen),
    )
    logits, _ = model.apply(intact.params, intact.batch.tokens, edits)
    return token_losses(logits, intact.batch.targets)

  tables = circuits.single_heads(n_layers, n_heads)
  pair_table, index = circuits.pairs_of_heads(n_layers, n_heads)
  if pairs:
    tables |= {"pair_ablation": pair_table}
  costs = circuits.sweep(losses, intact.losses, tables, intact.weights)
  values: Arrays = {}
  for suffix in TOKENS:
    for kind in KINDS:
      cost = jax.tree.map(lambda x: x.reshape(shape), costs[kind][suffix])
      values |= _with_error(f"{kind}_cost{suffix}", cost)
    if pairs:
      alone = values[f"ablation_cost{suffix}"]
      cost = costs["pair_ablation"][suffix]
      values |= _pairs(f"pair_ablation_cost{suffix}", cost, alone, index)
  return values


def _pairs(
  name: str, cost: circuits.Estimate, alone: Array, index: np.ndarray
) -> Arrays:
  """Costs of pairs as [L, H, L, H], nan unless the writer's layer is first."""
  later, earlier = (index[0], index[1]), (index[2], index[3])
  values = _with_error(name, cost)
  values |= {f"{name}_null": alone[later] + alone[earlier]}
  empty = jnp.full((*alone.shape, *alone.shape), jnp.nan)
  return {k: empty.at[tuple(index)].set(v) for k, v in values.items()}


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
