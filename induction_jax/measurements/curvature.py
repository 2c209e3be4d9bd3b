"""The Hessian that every curvature probe measures: one loss, one batch."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from induction_jax import spectra
from induction_jax.config import Config, ConfigError, SpectraConfig
from induction_jax.devices.limits import GIB
from induction_jax.devices.mesh import Placement, make_placement
from induction_jax.measurements.evaluation_batches import HeldOut, make_draw
from induction_jax.measurements.partition import partition_by_circuit
from induction_jax.measurements.solve import Solve, make_solve
from induction_jax.model import Model, losses
from induction_jax.training.state import TrainState
from induction_jax.training.step import (
  MEASURING_BYTES,
  Loss,
  fit_cache,
  make_loss,
)
from induction_jax.types import Array, Batch, Key, Params

# Of Curvature.rounding: to find a vector, and two to compare on it.
ROUNDING_PRODUCTS = spectra.POWER_STEPS + 2


class Curvature(NamedTuple):
  """The training loss on the held-out curvature batch, ready to differentiate.

  Attributes:
    loss: (params, batch) -> scalar.
    shapes: of the parameters.
    plan: how products are made: as a linear map or streamed.
    told: that and how eigenpairs are found, for people.
    layout: of the vectors of a Lanczos basis.
    solve: finds an operator's eigenpairs.
    partition: of the parameters into circuits.
    split: the held-out curvature batch, cut into micro-batches.
    hessian_at: (params, held_out) -> the streamed Hessian.
    gauss_newton_at: likewise its Gauss-Newton part, split at the logits.
    ready: a streamed operator made as fast as the plan allows.
    prepare: (state, held_out) -> the Hessian, made so.
    rounding: (state, held_out, Hessian, key) -> bound on what the rounding of
      a product adds to a residual.
  """

  loss: Loss
  shapes: Params
  plan: spectra.ProductPlan
  told: str
  layout: spectra.VectorSharding
  solve: Solve
  partition: spectra.Partition
  split: Callable[[HeldOut], spectra.MicroBatches]
  hessian_at: Callable[[Params, HeldOut], spectra.Operator]
  gauss_newton_at: Callable[[Params, HeldOut], spectra.Operator]
  ready: Callable[[spectra.Operator, Params], spectra.Operator]
  prepare: Callable[[TrainState, HeldOut], spectra.Operator]
  rounding: Callable[[TrainState, HeldOut, spectra.Operator, Key], Array]


def make_curvature(config: Config, model: Model) -> Curvature:
  """Fixes the loss and plans the products, from shapes alone."""
  weights = losses.make_weights(config.train.loss_tokens)
  loss = make_loss(model, weights)
  key = jax.eval_shape(lambda: jax.random.key(0))
  shapes = jax.eval_shape(model.init, key)
  batch = jax.eval_shape(make_draw(config), key).curvature
  plan = _plan(config, model, loss, shapes, batch)
  partition = partition_by_circuit(shapes)
  _check_sizes(config.spectra, partition.ids.size)
  basis = _basis(config, shapes)
  placement = make_placement(config.mesh)
  layout = _layout(placement)

  def predict(params: Params, batch: Batch) -> Array:
    return model.predict(params, batch.tokens)

  def criterion(logits: Array, batch: Batch) -> Array:
    token_losses = losses.token_losses(logits, batch.targets)
    return losses.mean_over(token_losses, weights(batch))

  def split(held_out: HeldOut) -> spectra.MicroBatches:
    counts = jnp.sum(weights(held_out.curvature), axis=1)
    data = spectra.split_batch(
      held_out.curvature, counts, plan.micro_batch_size
    )
    # Each micro-batch, for they are taken one after another.
    return data._replace(batches=placement.shard_micro_batches(data.batches))

  def ready(operator: spectra.Operator, params: Params) -> spectra.Operator:
    return spectra.linearize(operator, params) if plan.linear_map else operator

  def hessian_at(params: Params, held_out: HeldOut) -> spectra.Operator:
    return spectra.hessian(loss, params, split(held_out))

  def prepare(state: TrainState, held_out: HeldOut) -> spectra.Operator:
    return ready(hessian_at(state.params, held_out), state.params)

  def rounding(
    state: TrainState, held_out: HeldOut, hessian: spectra.Operator, key: Key
  ) -> Array:
    return spectra.rounding_error(
      spectra.dominant(hessian, state.params, key),
      lambda params: hessian_at(params, held_out),
      state.params,
      jax.random.fold_in(key, 1),
    )

  return Curvature(
    loss=loss,
    shapes=shapes,
    plan=plan,
    told=f"{plan}; {_told(config, basis, partition.ids.size)}",
    layout=layout,
    solve=make_solve(config.spectra, basis, layout),
    partition=partition,
    split=split,
    hessian_at=hessian_at,
    gauss_newton_at=lambda params, held_out: spectra.gauss_newton(
      predict, criterion, params, split(held_out)
    ),
    ready=ready,
    prepare=prepare,
    rounding=rounding,
  )


def _layout(placement: Placement) -> spectra.VectorSharding:
  """Vectors in as many parts as devices share them."""
  if placement.params == 1:
    return spectra.UNSHARDED
  return spectra.VectorSharding(
    placement.params, shard=placement.shard_vectors, gather=placement.replicate
  )


def _most_pairs(config: Config) -> int:
  """The most eigenpairs that any one Lanczos of the run looks for."""
  intervention = config.intervention
  projecting = intervention.project != "none"
  return max(config.spectra.most_pairs, projecting * intervention.project_top_k)


def _check_sizes(c: SpectraConfig, n_params: int) -> None:
  for name in (
    "track_top_k_eigenvalues",
    "preconditioned_top_k",
    "gauss_newton_top_k",
  ):
    if getattr(c, name) > n_params:
      raise ConfigError(
        f"spectra.{name} must be at most the number of parameters, "
        f"{n_params}, got {getattr(c, name)}"
      )
  if c.exact and n_params > spectra.MAX_PARAMETERS:
    raise ConfigError(
      "spectra.exact is for networks of at most "
      f"{spectra.MAX_PARAMETERS} parameters, this one has {n_params}"
    )


def _basis(config: Config, shapes: Params) -> int:
  """Rows of Lanczos' basis."""
  c = config.spectra
  return c.max_basis or spectra.plan_basis(
    shapes,
    wanted=_most_pairs(config),
    max_order=c.max_order,
    memory=int(c.memory_gib * GIB) * config.mesh.params,
  )


def _told(config: Config, basis: int, n_params: int) -> str:
  c, devices = config.spectra, config.mesh.params
  if c.exact:
    size = 4 * n_params**2 / 2**20
    return f"dense matrix of {n_params} parameters, {size:.3g} MiB"
  size = 4 * basis * n_params / devices / 2**20
  each = f" on each of {devices} devices" if devices > 1 else ""
  restarts = ", restarted" if basis < c.max_order else ""
  return f"Lanczos basis of {basis} vectors, {size:.3g} MiB{each}{restarts}"


def _plan(
  config: Config, model: Model, loss: Loss, shapes: Params, batch: Batch
) -> spectra.ProductPlan:
  """As the config says, or what is fastest of what fits.

  A CPU is faster with what stays in its cache than with a linear map.
  """
  c = config.spectra
  if c.micro_batch_size:
    return spectra.ProductPlan(
      linear_map=c.micro_batch_size == c.batch_size,
      micro_batch_size=c.micro_batch_size,
      bytes=0,
    )
  plan = spectra.plan_products(
    partial(spectra.hessian, loss),
    shapes,
    batch,
    # The Gauss-Newton part's map, if any, is kept beside the Hessian's.
    memory=int(c.memory_gib * GIB) // (2 if c.gauss_newton_top_k else 1),
    shared_by=config.mesh.data,
  )
  platform = jax.default_backend()
  together = fit_cache(config, c.batch_size, platform, MEASURING_BYTES)
  if model.mixes_sequences or together >= plan.micro_batch_size:
    return plan
  return spectra.ProductPlan(
    linear_map=False, micro_batch_size=together, bytes=0
  )
