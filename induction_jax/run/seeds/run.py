"""A whole sweep: group after group of seeds, through the one loop."""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from functools import partial

from induction_jax.config import Config, make_config, to_dict
from induction_jax.devices import processes
from induction_jax.devices.mesh import make_seeds_mesh
from induction_jax.run.experiment import Experiment
from induction_jax.run.log import DivergedError
from induction_jax.run.loop import End, Watcher, run
from induction_jax.run.seeds.experiment import make_group
from induction_jax.run.seeds.ledger import SeedsLedger
from induction_jax.run.timing import Cost
from induction_jax.storage import lock, version_1
from induction_jax.storage.files import write_json
from induction_jax.storage.run_directory import (
  RunDirectory,
  open_run,
  read_cost,
)
from induction_jax.storage.sweep_directory import SweepDirectory, SweepPlan


def config_of(config: Config, seed: int) -> Config:
  """The config of one seed's run, checked as any other."""
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
  """Trains and measures every seed to the end, from where it was left.

  Args:
    experiment: from make_pure_experiment.
    directory: from open_sweep.
    plan: that of the directory.
    should_stop: asked between chunks; true saves a checkpoint and returns.
    watch: seeds of a group -> who is told after its every chunk.

  Returns:
    Whether it got to the end.
  """
  config = experiment.config
  mesh = make_seeds_mesh(config.mesh, plan.group)
  group_of = make_group(experiment, plan.mapping, mesh)
  for seeds in plan.groups():
    group = directory.group(seeds)
    runs = [directory.seed(seed) for seed in seeds]
    cost = Cost(group)
    with contextlib.ExitStack() as locks:
      enter = partial(_enter, locks, directory, group, config, seeds)
      processes.on_first_process(enter)
      try:
        end = run(
          group_of(seeds),
          group,
          cost=cost,
          ledger=SeedsLedger(runs),
          should_stop=should_stop,
          watch=watch(seeds),
        )
      except DivergedError:  # of the last seed left: each has its note
        end = End(config.train.num_steps, complete=True)
      if processes.is_first():
        cost.save()
        _share_cost(group, runs)
    if not end.complete:
      return False
  return True


def _enter(
  locks: contextlib.ExitStack,
  directory: SweepDirectory,
  group: RunDirectory,
  config: Config,
  seeds: Sequence[int],
) -> None:
  """Opens every seed's run, and keeps others out of them."""
  group.root.mkdir(parents=True, exist_ok=True)
  for seed in seeds:
    run = _open_seed(directory, group, config, seeds, seed)
    locks.enter_context(lock.hold(run.root))


def _open_seed(
  directory: SweepDirectory,
  group: RunDirectory,
  config: Config,
  seeds: Sequence[int],
  seed: int,
) -> RunDirectory:
  """A run directory like any other, but for whose its checkpoints are."""
  own = directory.seed(seed)
  part = version_1.Part(group.checkpoints, seeds.index(seed), len(seeds))
  run = open_run(own.root, config_of(config, seed), resume=True)
  version_1.link(own.checkpoints, part)
  return run


def _share_cost(group: RunDirectory, runs: Sequence[RunDirectory]) -> None:
  total = read_cost(group.cost)
  share = {name: seconds / len(runs) for name, seconds in total.items()}
  share["first_step_seconds"] = total["first_step_seconds"]
  for each in runs:
    write_json(each.cost, share)
