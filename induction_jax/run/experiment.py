"""What a config stands for: the functions of which a run is made.

All are pure, and compiled where they run; nothing here touches the disk.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import optax

from induction_jax import tasks
from induction_jax.config import Config, ConfigError
from induction_jax.devices.mesh import (
  Placement,
  make_placement,
  on_one_device,
)
from induction_jax.interventions import clamp_heads, intervene
from induction_jax.measurements import (
  EvaluationBatches,
  Measurement,
  find_largest,
  make_curvature,
  make_draw_batches,
  make_measurements,
)
from induction_jax.model import Model, losses, make_model
from induction_jax.training import optimizer
from induction_jax.training.memory import check_memory, plan_micro_batch
from induction_jax.training.state import TrainState, init_state
from induction_jax.training.step import (
  TrainChunk,
  make_gradient,
  make_loss,
  make_train_chunk,
  make_train_step,
)
from induction_jax.types import Key, PyTree


class Experiment(NamedTuple):
  """A network, its training, and its measurements.

  Attributes:
    config: the config it was made from.
    model: the network, with clamped heads if the config clamps any.
    tx: the optimiser.
    init: () -> the training state at step 0.
    draw: key -> the evaluation batches.
    train_chunk: (state, number of updates) -> the state after them, metrics.
    all_measurements: every measurement that applies to the run.
    shared: quantities that several measurements use, by name, as functions
      (state, batches) -> pytree. Each is computed at most once a step.
    description: how Hessian products are made and eigenpairs found.
  """

  config: Config
  model: Model
  tx: optax.GradientTransformation
  init: Callable[[], TrainState]
  draw: Callable[[Key], EvaluationBatches]
  train_chunk: TrainChunk
  all_measurements: tuple[Measurement, ...]
  shared: dict[str, Callable[[TrainState, EvaluationBatches], PyTree]]
  description: str

  @property
  def measurements(self) -> tuple[Measurement, ...]:
    """Those that the config turns on, and those that they use."""
    by_name = {each.name: each for each in self.all_measurements}
    names = [each.name for each in self.all_measurements if each.interval]
    for name in names:  # grows while it is read
      uses = by_name[name].uses
      names += [each for each in uses if each in by_name and each not in names]
    return tuple(each for each in self.all_measurements if each.name in names)


def make_experiment(config: Config) -> Experiment:
  """Builds everything a run needs from its config, compiled where it runs."""
  return compile_experiment(make_pure_experiment(config))


def make_reader(config: Config) -> Experiment:
  """Builds an experiment on one device, for commands that only read a run."""
  return make_experiment(on_one_device(config))._replace(config=config)


def make_pure_experiment(config: Config) -> Experiment:
  """Builds an experiment of functions that are not compiled yet.

  Raises:
    ConfigError: for clamps or names that the network does not have, and if the
      run cannot fit this machine.
  """
  check_memory(config)
  task = config.task
  model = make_model(config.model, task.vocab_size, task.seq_length)
  # Clamped here and nowhere else, so that training and every measurement see
  # the same network.
  model = clamp_heads(model, config.intervention.clamp, config.model)
  placement = make_placement(config.mesh)
  draw = make_draw_batches(config)
  curvature = make_curvature(config, model)
  _check_clamps(config, model, curvature.plan.micro_batch_size)
  tx = intervene(
    optimizer.make_optimizer(config.optim, config.train.num_steps),
    config,
    curvature.shapes,
    curvature.partition,
    lambda params, key: curvature.hessian_at(params, draw(key)),
    partial(find_largest, curvature.solve),
  )
  train_chunk = _make_train_chunk(config, model, tx, placement)
  return Experiment(
    config=config,
    model=model,
    tx=tx,
    init=lambda: placement.replicate(
      init_state(model, tx, jax.random.key(config.seed))
    ),
    draw=draw,
    train_chunk=lambda *inputs: placement.replicate(train_chunk(*inputs)),
    all_measurements=tuple(
      _replicate(measurement, placement)
      for measurement in make_measurements(config, model, curvature)
    ),
    shared={"linearisation": curvature.linearise},
    description=curvature.description,
  )


def compile_experiment(experiment: Experiment) -> Experiment:
  """Compiles each function of an experiment as a program of its own."""
  return map_functions(experiment, jax.jit)


def map_functions(
  experiment: Experiment, wrap: Callable[[Callable], Callable]
) -> Experiment:
  """Wraps every function that the loop calls to compute on a device."""
  return experiment._replace(
    init=wrap(experiment.init),
    draw=wrap(experiment.draw),
    train_chunk=wrap(experiment.train_chunk),
    all_measurements=tuple(
      each._replace(measure=wrap(each.measure), nulls=wrap(each.nulls))
      for each in experiment.all_measurements
    ),
    shared={
      name: wrap(function) for name, function in experiment.shared.items()
    },
  )


def _make_train_chunk(
  config: Config,
  model: Model,
  tx: optax.GradientTransformation,
  placement: Placement,
) -> TrainChunk:
  weights = losses.make_weights(config.train.loss_tokens)
  gradient = make_gradient(
    make_loss(model, weights),
    weights,
    _micro_batch_size(config, model),
    placement.shard_micro_batches,
  )
  sample = tasks.make_sampler(config.task, config.train.batch_size)
  train_step = make_train_step(
    gradient, lambda key: placement.shard_batch(sample(key)), tx
  )
  return make_train_chunk(train_step)


def _replicate(measurement: Measurement, placement: Placement) -> Measurement:
  """A measurement whose results every device has in full.

  Shared quantities stay sharded: they may be as large as a batch.
  """
  if placement.mesh.size == 1:
    return measurement

  def replicated(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    return lambda inputs: placement.replicate(function(inputs))

  return measurement._replace(
    measure=replicated(measurement.measure),
    nulls=replicated(measurement.nulls),
    # Compiled, because otherwise the first carry would be on one device only.
    init_carry=jax.jit(replicated(measurement.init_carry)),
  )


def _micro_batch_size(config: Config, model: Model) -> int:
  """Of a training step. A mean over sequences needs the batch undivided."""
  if not model.mixes_sequences:
    return plan_micro_batch(config, jax.default_backend())
  size, asked = config.train.batch_size, config.train.micro_batch_size
  if asked not in (0, size):
    raise ConfigError(
      "train.micro_batch_size must be train.batch_size with a head clamped to "
      f"its mean over sequences, {size}, got {asked}"
    )
  return size


def _check_clamps(config: Config, model: Model, micro_batch_size: int) -> None:
  """Refuses micro-batches whose mean loss is not the mean of the batch."""
  size = config.spectra.batch_size
  if model.mixes_sequences and micro_batch_size != size:
    raise ConfigError(
      "spectra.micro_batch_size must be spectra.batch_size with a head clamped "
      f"to its mean over sequences, {size}, got {micro_batch_size} (if it was "
      "left at 0, spectra.memory_gib chose it)"
    )
