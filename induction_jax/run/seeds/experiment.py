"""The experiment of many seeds: what the loop runs in place of one."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from induction_jax.devices import processes
from induction_jax.devices.mesh import make_placement, seeds_sharding
from induction_jax.measurements import Probe
from induction_jax.run.experiment import Experiment, compile_experiment
from induction_jax.run.seeds.mapping import over_seeds
from induction_jax.training.state import TrainState, init_state
from induction_jax.training.step import ChunkMetrics, no_updates
from induction_jax.types import Array, Key, PyTree


def make_group(
  experiment: Experiment, mapping: str, mesh: Mesh
) -> Callable[[Sequence[int]], Experiment]:
  """Compiles an experiment for many seeds at once, whichever they are.

  State, carries and measurements are those of one seed, stacked: every leaf
  has a leading axis [N]. What is done with them on the host (`finish`,
  `complain`) stays that of one.

  Args:
    experiment: from make_pure_experiment; its own seed does not matter.
    mapping: one of MAPPINGS.
    mesh: from make_seeds_mesh, over which the seeds are shared.

  Returns:
    seeds -> the experiment that trains and measures them. Groups of one size
    share their programs.
  """

  def each(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    mapped = over_seeds(lambda _, *own: function(*own), mapping, mesh)
    return lambda *stacked: mapped((), *stacked)

  def start(key: Key) -> TrainState:
    state = init_state(experiment.model, experiment.tx, key)
    return make_placement(experiment.config.mesh).replicate(state)

  def train_one(
    shared: tuple[Array, Array], state: TrainState, metrics: ChunkMetrics
  ) -> tuple[TrainState, ChunkMetrics]:
    num_steps, newest = shared
    # A seed is frozen once its numbers are not finite, and known by being
    # behind; they stay finite for the probes, which measure all seeds.
    behind = jnp.where(state.step < newest, state.step, metrics.first_bad_step)
    metrics = metrics._replace(first_bad_step=behind)
    return experiment.train_chunk(state, num_steps, metrics)

  train_all = over_seeds(train_one, mapping, mesh)

  def train_seeds(
    state: TrainState, num_steps: Array, metrics: ChunkMetrics | None = None
  ) -> tuple[TrainState, ChunkMetrics]:
    metrics = no_updates(state.step) if metrics is None else metrics
    return train_all((num_steps, jnp.max(state.step)), state, metrics)

  # One device needs no telling, and arrays that are told where to lie make
  # another program of each measurement once jax has forgotten it of some.
  shared = seeds_sharding(mesh) if mesh.size > 1 else None
  init = jax.jit(each(start))
  mapped = compile_experiment(
    experiment._replace(
      draw=each(experiment.draw),
      train_chunk=train_seeds,
      all_probes=tuple(
        _map_probe(probe, each, shared) for probe in experiment.all_probes
      ),
    )
  )

  def of(seeds: Sequence[int]) -> Experiment:
    keys = jnp.stack([jax.random.key(seed) for seed in seeds])
    if shared:
      keys = processes.shard_keys(keys, shared)
    return mapped._replace(init=lambda: init(keys))

  return of


def _map_probe(
  probe: Probe,
  each: Callable[[Callable[..., PyTree]], Callable[..., PyTree]],
  shared: NamedSharding | None,
) -> Probe:
  # Placed as a measurement leaves it: else the second would compile anew.
  first_carry = jax.jit(each(probe.init_carry), out_shardings=shared)
  return probe._replace(
    constants=each(probe.constants),
    init_carry=first_carry,
    prepare=each(probe.prepare),
    measure=each(probe.measure),
  )
