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
from induction_jax.devices.limits import check_config
from induction_jax.devices.mesh import Placement, make_placement, on_one_device
from induction_jax.interventions import (
  clamp_heads,
  intervene,
)
from induction_jax.measurements import (
  HeldOut,
  Probe,
  find_largest,
  make_curvature,
  make_draw,
  make_probes,
)
from induction_jax.model import Model, losses, make_model
from induction_jax.training import optim
from induction_jax.training.state import TrainState, init_state
from induction_jax.training.step import (
  TrainChunk,
  make_gradient,
  make_loss,
  make_train_chunk,
  make_train_step,
  plan_micro_batch,
)
from induction_jax.types import Key, PyTree


class Experiment(NamedTuple):
  """What a config stands for: a network, its training, its probes.

  `probes` are those the run measures with, `all_probes` every one there is;
  `products` says how the Hessian's products are made and its eigenpairs found.
  """

  config: Config
  model: Model
  tx: optax.GradientTransformation
  init: Callable[[], TrainState]
  draw: Callable[[Key], HeldOut]
  train_chunk: TrainChunk
  probes: tuple[Probe, ...]
  all_probes: tuple[Probe, ...]
  products: str


def make_experiment(config: Config) -> Experiment:
  """Builds everything a run needs from its config, compiled where it runs."""
  return compile_experiment(make_pure_experiment(config))


def make_reader(config: Config) -> Experiment:
  """The same on one device, for whoever only reads a run."""
  return make_experiment(on_one_device(config))._replace(config=config)


def make_pure_experiment(config: Config) -> Experiment:
  """The same, not compiled: pure functions, to be mapped over many runs.

  Raises:
    ConfigError: for clamps or names that the network has not, and for what no
      machine like this one can hold.
  """
  check_config(config)
  task = config.task
  model = make_model(config.model, task.vocab_size, task.seq_length)
  # Here and nowhere else, so that all that is trained or measured is clamped.
  model = clamp_heads(model, config.intervention.clamp, config.model)
  placement = make_placement(config.mesh)
  draw = make_draw(config)
  curvature = make_curvature(config, model)
  _check_clamps(config, model, curvature.plan.micro_batch_size)
  tx = intervene(
    optim.make_optimizer(config.optim, config.train.num_steps),
    config,
    curvature.shapes,
    curvature.partition,
    lambda params, key: curvature.hessian_at(params, draw(key)),
    partial(find_largest, curvature.solve),
  )
  weights = losses.make_weights(config.train.loss_tokens)
  micro_batch_size = _micro_batch_size(config, model)
  gradient = make_gradient(
    make_loss(model, weights),
    weights,
    micro_batch_size,
    placement.shard_micro_batches,
  )
  sample = tasks.make_sampler(task, config.train.batch_size)
  train_step = make_train_step(
    gradient, lambda key: placement.shard_batch(sample(key)), tx
  )
  train_chunk = make_train_chunk(train_step)
  all_probes = tuple(
    _keep_whole(probe, placement)
    for probe in make_probes(config, model, curvature)
  )
  return Experiment(
    config=config,
    model=model,
    tx=tx,
    init=lambda: placement.replicate(
      init_state(model, tx, jax.random.key(config.seed))
    ),
    draw=draw,
    train_chunk=lambda *inputs: placement.replicate(train_chunk(*inputs)),
    probes=tuple(probe for probe in all_probes if probe.interval),
    all_probes=all_probes,
    products=curvature.told,
  )


def _keep_whole(probe: Probe, placement: Placement) -> Probe:
  """A probe of which every device has all that leaves its programs.

  But for what it prepares, which is as large as the batch that it is of.
  """
  if placement.mesh.size == 1:
    return probe

  def whole(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    return lambda *inputs: placement.replicate(function(*inputs))

  return probe._replace(
    constants=whole(probe.constants),
    # Compiled, or the first carry would be on one device alone.
    init_carry=jax.jit(whole(probe.init_carry)),
    measure=whole(probe.measure),
  )


def _micro_batch_size(config: Config, model: Model) -> int:
  """Of a training step; a mean over sequences is of the batch as a whole."""
  if not model.mixes_sequences:
    return plan_micro_batch(config, jax.default_backend())
  whole, asked = config.train.batch_size, config.train.micro_batch_size
  if asked not in (0, whole):
    raise ConfigError(
      "train.micro_batch_size must be train.batch_size with a head clamped to "
      f"its mean over sequences, {whole}, got {asked}"
    )
  return whole


def _check_clamps(config: Config, model: Model, micro_batch_size: int) -> None:
  """Refuses micro-batches whose mean loss is not that of the batch."""
  whole = config.spectra.batch_size
  if model.mixes_sequences and micro_batch_size != whole:
    raise ConfigError(
      "spectra.micro_batch_size must be spectra.batch_size with a head clamped "
      f"to its mean over sequences, {whole}, got {micro_batch_size} (of 0, by "
      "spectra.memory_gib)"
    )


def compile_experiment(experiment: Experiment) -> Experiment:
  """Each function of an experiment as one program."""
  all_probes = tuple(
    probe._replace(
      constants=jax.jit(probe.constants),
      prepare=jax.jit(probe.prepare),
      measure=jax.jit(probe.measure),
    )
    for probe in experiment.all_probes
  )
  return experiment._replace(
    init=jax.jit(experiment.init),
    draw=jax.jit(experiment.draw),
    train_chunk=jax.jit(experiment.train_chunk, donate_argnums=0),
    probes=tuple(probe for probe in all_probes if probe.interval),
    all_probes=all_probes,
  )
