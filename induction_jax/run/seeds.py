"""Many seeds of one config, trained and measured by one program."""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from induction_jax.config import Config, make_config, to_dict
from induction_jax.devices import processes
from induction_jax.devices.mesh import (
  SEEDS,
  make_placement,
  make_seeds_mesh,
  seeds_sharding,
)
from induction_jax.run.experiment import Experiment, compile_experiment
from induction_jax.run.log import DivergedError
from induction_jax.run.loop import End, Watcher, run
from induction_jax.run.schedule import TrainingSchedule
from induction_jax.run.store import RunStore
from induction_jax.run.timing import Timing
from induction_jax.storage import lock
from induction_jax.storage.files import write_json
from induction_jax.storage.run_directory import (
  RunDirectory,
  open_run,
  read_cost,
)
from induction_jax.storage.sweep_directory import SweepDirectory, SweepPlan
from induction_jax.training.state import TrainState, init_state
from induction_jax.training.step import ChunkMetrics, no_updates
from induction_jax.types import Array, Key, PyTree

MAPPINGS = ("map", "vmap")


def default_mapping() -> str:
  """One seed after another on a CPU, all at once on an accelerator.

  A CPU gains nothing from batches of small products, and its loops wait for
  the slowest seed (measured in experiments/).
  """
  return "map" if jax.default_backend() == "cpu" else "vmap"


def config_of_seed(config: Config, seed: int) -> Config:
  """The config of one seed's run."""
  return make_config(to_dict(dataclasses.replace(config, seed=seed)))


def run_seeds(
  experiment: Experiment,
  directory: SweepDirectory,
  plan: SweepPlan,
  *,
  should_stop: Callable[[], bool] = lambda: False,
  watch: Callable[[Sequence[int]], Watcher] = lambda seeds: (
    lambda progress: None
  ),
) -> bool:
  """Trains and measures every seed to the end, group after group.

  A group that is finished is restored and trained no further. A group whose
  seeds have all diverged is tried again.

  Args:
    experiment: from make_pure_experiment.
    directory: from open_sweep.
    plan: the plan of the directory.
    should_stop: asked again and again; true saves checkpoints and returns.
    watch: seeds of a group -> the watcher of the group's run.

  Returns:
    Whether every seed is finished.
  """
  config = experiment.config
  mesh = make_seeds_mesh(config.mesh, plan.group)
  experiment_of = make_group(experiment, plan.mapping, mesh)
  for seeds in plan.groups():
    runs = [directory.seed(seed) for seed in seeds]
    group = directory.group(seeds)
    timing = Timing(group)
    with contextlib.ExitStack() as locks:
      enter = partial(_enter, locks, group, runs, config, seeds)
      processes.on_first_process(enter)
      grouped = experiment_of(seeds)
      try:
        end = run(
          grouped,
          TrainingSchedule(config, grouped.measurements),
          RunStore(runs, timing, stacked=True),
          should_stop=should_stop,
          watch=watch(seeds),
        )
      except DivergedError:  # raised for the last seed; each has its note
        end = End(config.train.num_steps, complete=True)
      if processes.is_first():
        timing.save()
        _share_timing(group, runs)
    if not end.complete:
      return False
  return True


def make_group(
  experiment: Experiment, mapping: str, mesh: Mesh
) -> Callable[[Sequence[int]], Experiment]:
  """Compiles an experiment for many seeds at once, whichever they are.

  State, carries and measurements are those of single runs, stacked: every leaf
  has a leading axis [N]. `Measurement.finish` still takes one seed's arrays.

  Args:
    experiment: from make_pure_experiment; its own seed does not matter.
    mapping: one of MAPPINGS.
    mesh: from make_seeds_mesh, over which the seeds are sharded.

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

  # jit compiles again when an argument changes from uncommitted to committed,
  # so the first carries get the sharding that later ones have. One device
  # needs none.
  sharding = seeds_sharding(mesh) if mesh.size > 1 else None
  init = jax.jit(each(start))
  mapped = compile_experiment(
    experiment._replace(
      draw=each(experiment.draw),
      train_chunk=_train_seeds(experiment, mapping, mesh),
      all_measurements=tuple(
        measurement._replace(
          measure=each(measurement.measure),
          nulls=each(measurement.nulls),
          init_carry=jax.jit(
            each(measurement.init_carry), out_shardings=sharding
          ),
        )
        for measurement in experiment.all_measurements
      ),
      shared={name: each(f) for name, f in experiment.shared.items()},
    )
  )

  def experiment_of(seeds: Sequence[int]) -> Experiment:
    keys = jnp.stack([jax.random.key(seed) for seed in seeds])
    if sharding:
      keys = processes.shard_keys(keys, sharding)
    return mapped._replace(init=lambda: init(keys))

  return experiment_of


def _train_seeds(
  experiment: Experiment, mapping: str, mesh: Mesh
) -> Callable[[TrainState, Array], tuple[TrainState, ChunkMetrics]]:
  """Makes the function that trains every seed that has not diverged."""

  def train_one(
    shared: tuple[Array, Array], state: TrainState
  ) -> tuple[TrainState, ChunkMetrics]:
    num_steps, newest = shared
    # A seed whose update was not finite stays at its last good state, so it is
    # behind the others. It is trained no further, and its numbers stay finite
    # for the measurements, which are made of all seeds.
    metrics = no_updates(state.step)
    diverged_at = jnp.where(
      state.step < newest, state.step, metrics.first_bad_step
    )
    metrics = metrics._replace(first_bad_step=diverged_at)
    return experiment.train_chunk(state, num_steps, metrics)

  train_all = over_seeds(train_one, mapping, mesh)
  return lambda state, num_steps: train_all(
    (num_steps, jnp.max(state.step)), state
  )


def over_seeds(
  function: Callable[..., PyTree], mapping: str, mesh: Mesh
) -> Callable[..., PyTree]:
  """Maps a function of one seed over stacked seeds.

  With `map` each device takes its seeds one after another, with the operations
  of a single run; on a CPU the bits are the same. With `vmap` it takes them
  all at once, which rounds differently, and a loop runs until its last seed is
  done. Only devices that share a seed communicate. A device with a single seed
  has no loop, and rounds differently again.

  Args:
    function: (shared, *own) -> pytree of arrays.
    mapping: one of MAPPINGS.
    mesh: from make_seeds_mesh.

  Returns:
    (shared, *stacked) -> stacked. Every leaf but those of `shared` has a
    leading axis [N], sharded along the mesh's SEEDS.
  """

  def on_device(shared: PyTree, *stacked: PyTree) -> PyTree:
    if mapping == "vmap":
      return jax.vmap(lambda *own: function(shared, *own))(*stacked)
    return jax.lax.map(lambda own: function(shared, *own), stacked)

  if mesh.shape[SEEDS] == 1:
    return on_device

  def on_all_devices(shared: PyTree, *stacked: PyTree) -> PyTree:
    own = PartitionSpec(SEEDS)
    return jax.shard_map(
      on_device,
      mesh=mesh,
      in_specs=(PartitionSpec(), *(own for _ in stacked)),
      out_specs=own,
      axis_names={SEEDS},  # along the other axes each seed shards its own
      # Loops begin with constants, which do not vary over devices yet.
      check_vma=False,
    )(shared, *stacked)

  return on_all_devices


def bytes_per_seed(experiment: Experiment) -> int:
  """An estimate of what one more seed takes on its device.

  Twice its state and carries (before and after a step), its evaluation batches,
  and the largest shared quantity. The latter, the Hessian's linear map, is as
  large as the activations of the batch and stands for those of training too.
  The memory that a measurement needs while it runs is not included, so allow
  for twice the estimate.

  Args:
    experiment: from make_pure_experiment.
  """
  state = jax.eval_shape(experiment.init)
  batches = jax.eval_shape(experiment.draw, state.key)
  carries = [
    jax.eval_shape(measurement.init_carry, state.params)
    for measurement in experiment.measurements
  ]
  used = {name for each in experiment.measurements for name in each.uses}
  shared = [
    _bytes(jax.eval_shape(function, state, batches))
    for name, function in experiment.shared.items()
    if name in used
  ]
  kept = 2 * _bytes((state, carries)) + _bytes(batches)
  return kept + max(shared, default=0)


def group_size(seeds: int, each: int, memory: int, devices: int) -> int:
  """The most seeds at once: a divisor of `seeds` whose share fits a device.

  Args:
    seeds: the number of seeds.
    each: bytes of one seed.
    memory: bytes that each device may give.
    devices: the number of devices.
  """
  fit = max(1, memory // each) * devices
  return max(n for n in range(1, seeds + 1) if seeds % n == 0 and n <= fit)


def _enter(
  locks: contextlib.ExitStack,
  group: RunDirectory,
  runs: Sequence[RunDirectory],
  config: Config,
  seeds: Sequence[int],
) -> None:
  """Opens every seed's directory, and locks it."""
  group.root.mkdir(parents=True, exist_ok=True)
  for seed, own in zip(seeds, runs):
    open_run(own.root, config_of_seed(config, seed), resume=True)
    locks.enter_context(lock.hold(own.root))


def _share_timing(group: RunDirectory, runs: Sequence[RunDirectory]) -> None:
  total = read_cost(group.cost)
  share = {name: seconds / len(runs) for name, seconds in total.items()}
  share["first_step_seconds"] = total["first_step_seconds"]
  for each in runs:
    write_json(each.cost, share)


def _bytes(tree: PyTree) -> int:
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
