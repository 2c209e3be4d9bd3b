"""The Hessian of the training loss that all curvature measurements use.

The shared quantity `linearisation` is the Hessian at a training state, prepared
for many products in a program of its own. Measurements that name it in `uses`
share it, so it is computed at most once a step.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from induction_jax import spectra
from induction_jax.config import Config, ConfigError, SpectraConfig
from induction_jax.devices.limits import GIB
from induction_jax.devices.mesh import Placement, make_placement
from induction_jax.measurements.batches import (
  EvaluationBatches,
  make_draw_batches,
)
from induction_jax.measurements.eigenpairs import (
  Solve,
  find_spectra,
  make_solve,
)
from induction_jax.measurements.partition import partition_by_circuit
from induction_jax.model import Model, losses
from induction_jax.training.memory import MEASURING_BYTES, fit_cache
from induction_jax.training.state import TrainState
from induction_jax.training.step import Loss, make_loss
from induction_jax.types import Array, Batch, Key, Params

# Hessian-vector products of Curvature.rounding: power iteration for a vector,
# and two products with it to compare.
ROUNDING_PRODUCTS = spectra.POWER_STEPS + 2


class Linearisation(NamedTuple):
  """Derivatives of the loss at a training state, on the curvature batch.

  Attributes:
    hessian: the Hessian, as a linear map if the plan says so.
    gauss_newton: its Gauss-Newton part, or None if its spectrum is not
      measured.
    gradient: the gradient on the same batch.
  """

  hessian: spectra.Operator
  gauss_newton: spectra.Operator | None
  gradient: Params


class Curvature(NamedTuple):
  """Operators and solvers for the training loss on the curvature batch.

  Attributes:
    shapes: the parameters' shapes.
    plan: whether products use a linear map or stream over micro-batches.
    description: the plan and the eigensolver in words.
    sharding: how devices share the vectors of a Lanczos basis.
    solve: finds an operator's extreme eigenpairs.
    find_spectra: finds several spectra of one operator, with residual bounds
      that include rounding (see eigenpairs.find_spectra).
    partition: the parameters partitioned into circuits.
    hessian_at: (params, batches) -> the Hessian, streamed.
    gauss_newton_at: (params, batches) -> its Gauss-Newton part, split at the
      logits, streamed.
    linearise: (state, batches) -> the shared quantity `linearisation`.
    rounding: (state, batches, Hessian, key) -> a bound on the part of a
      residual that is due to the rounding of a product.
  """

  shapes: Params
  plan: spectra.ProductPlan
  description: str
  sharding: spectra.VectorSharding
  solve: Solve
  find_spectra: Callable[..., dict[str, spectra.Spectrum]]
  partition: spectra.Partition
  hessian_at: Callable[[Params, EvaluationBatches], spectra.Operator]
  gauss_newton_at: Callable[[Params, EvaluationBatches], spectra.Operator]
  linearise: Callable[[TrainState, EvaluationBatches], Linearisation]
  rounding: Callable[
    [TrainState, EvaluationBatches, spectra.Operator, Key], Array
  ]


def make_curvature(config: Config, model: Model) -> Curvature:
  """Makes the operators and solvers. Reads only shapes, computes no arrays."""
  weights = losses.make_weights(config.train.loss_tokens)
  loss = make_loss(model, weights)
  key = jax.eval_shape(lambda: jax.random.key(0))
  shapes = jax.eval_shape(model.init, key)
  batch = jax.eval_shape(make_draw_batches(config), key).curvature
  plan = _plan_products(config, model, loss, shapes, batch)
  partition = partition_by_circuit(shapes)
  _check_sizes(config.spectra, partition.ids.size)
  basis = _basis_rows(config, shapes)
  placement = make_placement(config.mesh)
  sharding = _vector_sharding(placement)
  solve = make_solve(config.spectra, basis, sharding)

  def predict(params: Params, batch: Batch) -> Array:
    return model.predict(params, batch.tokens)

  def criterion(logits: Array, batch: Batch) -> Array:
    token_losses = losses.token_losses(logits, batch.targets)
    return losses.mean_over(token_losses, weights(batch))

  def split(batches: EvaluationBatches) -> spectra.MicroBatches:
    counts = jnp.sum(weights(batches.curvature), axis=1)
    data = spectra.split_batch(batches.curvature, counts, plan.micro_batch_size)
    # Micro-batches run one after another, so each of them is sharded.
    return data._replace(batches=placement.shard_micro_batches(data.batches))

  def hessian_at(
    params: Params, batches: EvaluationBatches
  ) -> spectra.Operator:
    return spectra.hessian(loss, params, split(batches))

  def gauss_newton_at(
    params: Params, batches: EvaluationBatches
  ) -> spectra.Operator:
    return spectra.gauss_newton(predict, criterion, params, split(batches))

  def prepare(operator: spectra.Operator, params: Params) -> spectra.Operator:
    return spectra.linearize(operator, params) if plan.linear_map else operator

  def linearise(state: TrainState, batches: EvaluationBatches) -> Linearisation:
    params, gauss_newton = state.params, None
    if config.spectra.gauss_newton_top_k:
      gauss_newton = prepare(gauss_newton_at(params, batches), params)
    return Linearisation(
      hessian=prepare(hessian_at(params, batches), params),
      gauss_newton=gauss_newton,
      gradient=spectra.gradient(loss, params, split(batches)),
    )

  def rounding(
    state: TrainState,
    batches: EvaluationBatches,
    hessian: spectra.Operator,
    key: Key,
  ) -> Array:
    return spectra.rounding_error(
      spectra.dominant(hessian, state.params, key),
      lambda params: hessian_at(params, batches),
      state.params,
      jax.random.fold_in(key, 1),
    )

  return Curvature(
    shapes=shapes,
    plan=plan,
    description=f"{plan}; {_describe(config, basis, partition.ids.size)}",
    sharding=sharding,
    solve=solve,
    find_spectra=partial(find_spectra, solve, config.spectra.tolerance),
    partition=partition,
    hessian_at=hessian_at,
    gauss_newton_at=gauss_newton_at,
    linearise=linearise,
    rounding=rounding,
  )


def _vector_sharding(placement: Placement) -> spectra.VectorSharding:
  """Splits long vectors over the devices of the mesh axis `params`."""
  if placement.params == 1:
    return spectra.UNSHARDED
  return spectra.VectorSharding(
    placement.params, shard=placement.shard_vectors, gather=placement.replicate
  )


def _most_pairs(config: Config) -> int:
  """The largest number of eigenpairs that one Lanczos solve looks for."""
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


def _basis_rows(config: Config, shapes: Params) -> int:
  """Rows of the Lanczos basis; by default as many as fit in memory."""
  c = config.spectra
  return c.max_basis or spectra.plan_basis(
    shapes,
    wanted=_most_pairs(config),
    max_order=c.max_order,
    memory=int(c.memory_gib * GIB) * config.mesh.params,
  )


def _describe(config: Config, basis: int, n_params: int) -> str:
  c, devices = config.spectra, config.mesh.params
  if c.exact:
    size = 4 * n_params**2 / 2**20
    return f"dense matrix of {n_params} parameters, {size:.3g} MiB"
  size = 4 * basis * n_params / devices / 2**20
  each = f" on each of {devices} devices" if devices > 1 else ""
  restarts = ", restarted" if basis < c.max_order else ""
  return f"Lanczos basis of {basis} vectors, {size:.3g} MiB{each}{restarts}"


def _plan_products(
  config: Config, model: Model, loss: Loss, shapes: Params, batch: Batch
) -> spectra.ProductPlan:
  """Plans products by the config, or the fastest that fit in memory.

  On a CPU, micro-batches that stay in the cache are faster than a linear map.
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
    # A linear map of the Gauss-Newton part needs as much memory again.
    memory=int(c.memory_gib * GIB) // (2 if c.gauss_newton_top_k else 1),
    shared_by=config.mesh.data,
  )
  platform = jax.default_backend()
  cached = fit_cache(config, c.batch_size, platform, MEASURING_BYTES)
  if model.mixes_sequences or cached >= plan.micro_batch_size:
    return plan
  return spectra.ProductPlan(linear_map=False, micro_batch_size=cached, bytes=0)
