r"""Trains many seeds of one config as one program, and reports their spread.

  python -m induction_jax.sweep --config configs/quick.py --seeds 64 \
    --workdir runs/quick_64
  python -m induction_jax.sweep --config configs/quick.py --seeds 8 \
    --over optim.learning_rate=1e-3,3e-3 --workdir runs/rates

The same command on the same --workdir goes on where it stopped. Each seed has a
run directory of its own in it, seed_0007 say, that every other command reads:

  python -m induction_jax.visualize runs/quick_64/seed_0007
"""

import argparse
import contextlib
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax

from induction_jax.commands import command_line
from induction_jax.commands.interrupt import Interrupt
from induction_jax.commands.progress import make_watcher
from induction_jax.commands.sweep_options import Setting, make_grid, parse
from induction_jax.config import Config, ConfigError
from induction_jax.devices import processes
from induction_jax.devices.limits import GIB
from induction_jax.devices.mesh import (
  check_all_devices_used,
  devices,
  make_seeds_mesh,
)
from induction_jax.report.findings import find
from induction_jax.report.seed_figures import write_seed_figures
from induction_jax.report.seeds import (
  Outcome,
  format_seeds,
  format_settings,
  outcome,
  summarise_seeds,
)
from induction_jax.report.summary import write_summary
from induction_jax.run.experiment import Experiment, make_pure_experiment
from induction_jax.run.log import read_divergence
from induction_jax.run.loop import Progress, Watcher
from induction_jax.run.results import make_results, write_results
from induction_jax.run.seeds import (
  MAPPINGS,
  bytes_per_seed,
  config_of_seed,
  default_mapping,
  group_size,
  run_seeds,
)
from induction_jax.storage import lock
from induction_jax.storage.dataset import join_seeds, write_dataset
from induction_jax.storage.files import write_json
from induction_jax.storage.run_directory import (
  RunDirectory,
)
from induction_jax.storage.sweep_directory import (
  SweepDirectory,
  SweepPlan,
  open_grid,
  open_sweep,
  read_plan,
)


def main(argv: list[str]) -> int:
  """Runs the command line; returns the exit status."""
  values = parse(argv, __doc__)
  config = command_line.config_from(values)
  command_line.join_processes(values)
  settings = make_grid(config, values.over, list(values.settings))
  root = Path(values.workdir)
  jobs = []
  for setting in settings:  # all of them, before anything is written
    if setting.config.spectra.adaptive:
      raise ConfigError(
        "spectra.adaptive measures each run at steps of its own, and a sweep "
        "all its seeds at once: set it to 0"
      )
    experiment = make_pure_experiment(setting.config)
    path = root / setting.name
    jobs.append((setting, experiment, _plan(values, experiment, path)))
  over = _values(settings)
  if values.over:
    processes.on_first_process(lambda: open_grid(root, config, over))
  summaries = {}
  resume_command = "python -m induction_jax.sweep " + shlex.join(argv[1:])
  with Interrupt(resume_command) as interrupt, contextlib.ExitStack() as locks:
    for setting, experiment, plan in jobs:
      directory = SweepDirectory(root / setting.name)
      enter = partial(_enter, locks, directory, setting.config, plan)
      processes.on_first_process(enter)
      _announce(directory, experiment, plan)
      if not _run(experiment, directory, plan, interrupt):
        if processes.is_first():
          write_so_far(experiment, directory, plan)
        interrupt.leave("stopped")
      with interrupt.at_once():
        if processes.is_first():
          summaries[setting.name] = report(experiment, directory, plan)
    with interrupt.at_once():
      if summaries and values.over:
        write_json(SweepDirectory(root).summary, {"settings": summaries})
        print("\n" + format_settings(summaries))
  processes.disconnect()
  return 0


def _enter(
  locks: contextlib.ExitStack,
  directory: SweepDirectory,
  config: Config,
  plan: SweepPlan,
) -> None:
  open_sweep(directory.root, config, plan)
  locks.enter_context(lock.hold(directory.root))


def report(
  experiment: Experiment, directory: SweepDirectory, plan: SweepPlan
) -> dict[str, Any]:
  """Writes the results of all seeds, and prints what they say."""
  results, outcomes = {}, []
  for seeds in plan.groups():
    for seed in seeds:
      run = directory.seed(seed)
      own = experiment._replace(config=config_of_seed(experiment.config, seed))
      found = write_results(own, run)
      results[seed] = found
      outcomes.append(_outcome(run, seed, found))
  joined = join_seeds(results)
  write_dataset(joined, directory.results)
  summary = summarise_seeds(outcomes)
  write_json(directory.summary, summary)
  print(format_seeds(summary))
  form = experiment.config.report.format
  for path in write_seed_figures(directory.figures, joined, outcomes, form):
    print(f"figure: {path}")
  return summary


def write_so_far(
  experiment: Experiment, directory: SweepDirectory, plan: SweepPlan
) -> None:
  """Writes results.nc of what is measured of a sweep that was stopped.

  What is each seed's own is left to the end of the sweep: it takes longer
  than a process that was told to stop may have.
  """
  results = {}
  for seeds in plan.groups():
    for seed in seeds:
      run = directory.seed(seed)
      own = experiment._replace(config=config_of_seed(experiment.config, seed))
      with contextlib.suppress(ConfigError):  # not measured yet
        results[seed] = make_results(own, run)
  if results:
    write_dataset(join_seeds(results), directory.results)


def _plan(
  values: argparse.Namespace, experiment: Experiment, root: Path
) -> SweepPlan:
  """What is asked; what is not, as the sweep in the directory has it."""
  stored = read_plan(root)
  mapping, group = values.mapping, values.group
  if stored is not None and stored.seeds == values.seeds:
    group = group or stored.group
    if stored.mapping in MAPPINGS:
      mapping = mapping or stored.mapping
  plan = SweepPlan(
    seeds=values.seeds,
    first_seed=values.first_seed,
    group=group
    or group_size(
      values.seeds,
      bytes_per_seed(experiment),
      int(values.memory_gib * GIB),
      jax.device_count() // devices(experiment.config.mesh),
    ),
    mapping=mapping or default_mapping(),
  )
  mesh = make_seeds_mesh(experiment.config.mesh, plan.group)  # or is refused
  check_all_devices_used(mesh.size)
  return plan


def _announce(
  directory: SweepDirectory, experiment: Experiment, plan: SweepPlan
) -> None:
  mesh = make_seeds_mesh(experiment.config.mesh, plan.group)
  print(f"sweep directory: {directory.root}")
  print(f"Hessian products: {experiment.description}")
  print(
    f"{plan.seeds} seeds, {plan.group} at once ({plan.mapping}) on {mesh.size} "
    f"of {jax.device_count()} devices, about "
    f"{bytes_per_seed(experiment) / 2**20:.3g} MiB a seed",
    flush=True,
  )


def _run(
  experiment: Experiment,
  directory: SweepDirectory,
  plan: SweepPlan,
  interrupt: Interrupt,
) -> bool:
  def watch(seeds: Sequence[int]) -> Watcher:
    print(f"seeds {seeds[0]} to {seeds[-1]}, medians:", flush=True)
    watcher = make_watcher(experiment.config.train.num_steps)

    def update(progress: Progress) -> None:
      watcher.update(progress)
      if progress.step >= experiment.config.train.num_steps:
        watcher.close()

    return update

  return run_seeds(
    experiment,
    directory,
    plan,
    should_stop=interrupt.asked,
    watch=watch,
  )


def _outcome(run: RunDirectory, seed: int, results: Any) -> Outcome:
  """Reads a seed's findings off its results, and writes its summary."""
  findings = find(results)
  note = read_divergence(run)
  if "train_loss" in results:
    summary = write_summary(run, results, findings)
    if note:
      write_json(run.summary, summary | {"diverged": note})
  if note:
    print(f"seed {seed} diverged: {note['reason']}", file=sys.stderr)
  return outcome(seed, results, findings, note["step"] if note else None)


def _values(settings: Sequence[Setting]) -> dict[str, list[Any]]:
  """Every value of each leaf of a grid."""
  over: dict[str, list[Any]] = {}
  for setting in settings:
    for leaf, value in setting.values.items():
      over.setdefault(leaf, [])
      if value not in over[leaf]:
        over[leaf].append(value)
  return over


if __name__ == "__main__":
  command_line.run_main(main)
