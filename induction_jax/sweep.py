r"""Trains many seeds of a config as one program, and reports their spread.

  python -m induction_jax.sweep --config configs/quick.py --seeds 64 \
    --workdir runs/quick_64
  python -m induction_jax.sweep --config configs/quick.py --seeds 8 \
    --over optim.learning_rate=1e-3,3e-3 --workdir runs/rates

The same command on the same --workdir resumes the sweep. Each seed has its own
run directory below it, which every other command can read:

  python -m induction_jax.visualize runs/quick_64/seed_0007
"""

import argparse
import contextlib
import shlex
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax

from induction_jax.commands import command_line
from induction_jax.commands.interrupt import Interrupt
from induction_jax.commands.progress import make_watcher
from induction_jax.commands.sweep_options import make_grid, parse
from induction_jax.config import Config, ConfigError
from induction_jax.devices import processes
from induction_jax.devices.limits import GIB
from induction_jax.devices.mesh import (
  check_all_devices_used,
  devices_per_seed,
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
from induction_jax.storage.run_directory import RunDirectory
from induction_jax.storage.sweep_directory import (
  SweepDirectory,
  SweepPlan,
  open_grid,
  open_sweep,
  read_plan,
)


class Sweep(NamedTuple):
  """All seeds of one setting.

  Attributes:
    name: name of the setting; empty without --over.
    experiment: the experiment of the setting, not compiled; its seed is not
      used.
    directory: the directory of the sweep.
    plan: which seeds are trained, and how.
  """

  name: str
  experiment: Experiment
  directory: SweepDirectory
  plan: SweepPlan

  def seeds(self) -> Iterator[tuple[int, Experiment, RunDirectory]]:
    """Each seed, its experiment and its run directory."""
    config = self.experiment.config
    for seeds in self.plan.groups():
      for seed in seeds:
        own = self.experiment._replace(config=config_of_seed(config, seed))
        yield seed, own, self.directory.seed(seed)


def main(argv: list[str]) -> int:
  """Runs the command line; returns the exit status."""
  values = parse(argv, __doc__)
  config = command_line.config_from(values)
  command_line.join_processes(values)
  root = Path(values.workdir)
  settings = make_grid(config, values.over, list(values.settings))
  # Makes and checks all sweeps before anything is written.
  sweeps = [
    _make_sweep(values, each.name, each.config, root) for each in settings
  ]
  if values.over:
    over = {
      leaf: list(dict.fromkeys(each.values[leaf] for each in settings))
      for leaf in settings[0].values
    }
    processes.on_first_process(lambda: open_grid(root, config, over))
  summaries = {}
  resume_command = "python -m induction_jax.sweep " + shlex.join(argv[1:])
  with Interrupt(resume_command) as interrupt, contextlib.ExitStack() as locks:
    for sweep in sweeps:
      processes.on_first_process(partial(_open, sweep, locks))
      if not _run(sweep, interrupt):
        if processes.is_first():
          report_unfinished(sweep)
        interrupt.leave("stopped")
      with interrupt.at_once():
        if processes.is_first():
          summaries[sweep.name] = report(sweep)
    with interrupt.at_once():
      if summaries and values.over:
        write_json(SweepDirectory(root).summary, {"settings": summaries})
        print("\n" + format_settings(summaries))
  processes.disconnect()
  return 0


def _make_sweep(
  values: argparse.Namespace, name: str, config: Config, root: Path
) -> Sweep:
  """Makes the sweep of one setting.

  Flags that are not given default to the plan of the sweep in the directory,
  if that has as many seeds.
  """
  if config.spectra.adaptive:
    raise ConfigError(
      "spectra.adaptive must be 0 in a sweep: all seeds are measured at the "
      "same steps"
    )
  experiment = make_pure_experiment(config)
  directory = SweepDirectory(root / name)
  mapping, group = values.mapping, values.group
  stored = read_plan(directory.root)
  if stored is not None and stored.seeds == values.seeds:
    group = group or stored.group
    if stored.mapping in MAPPINGS:
      mapping = mapping or stored.mapping
  group = group or group_size(
    values.seeds,
    bytes_per_seed(experiment),
    int(values.memory_gib * GIB),
    jax.device_count() // devices_per_seed(config.mesh),
  )
  mesh = make_seeds_mesh(config.mesh, group)  # checks the group's size
  check_all_devices_used(mesh.size)
  plan = SweepPlan(
    seeds=values.seeds,
    first_seed=values.first_seed,
    group=group,
    mapping=mapping or default_mapping(),
  )
  return Sweep(name, experiment, directory, plan)


def _open(sweep: Sweep, locks: contextlib.ExitStack) -> None:
  root = sweep.directory.root
  open_sweep(root, sweep.experiment.config, sweep.plan)
  locks.enter_context(lock.hold(root))


def _run(sweep: Sweep, interrupt: Interrupt) -> bool:
  """Trains and measures all seeds; returns whether all are finished."""
  _, experiment, directory, plan = sweep
  config = experiment.config
  mesh = make_seeds_mesh(config.mesh, plan.group)
  print(f"sweep directory: {directory.root}")
  print(f"Hessian products: {experiment.description}")
  print(
    f"{plan.seeds} seeds, {plan.group} at once ({plan.mapping}) on {mesh.size} "
    f"of {jax.device_count()} devices, about "
    f"{bytes_per_seed(experiment) / 2**20:.3g} MiB a seed",
    flush=True,
  )

  def watch(seeds: Sequence[int]) -> Watcher:
    print(f"seeds {seeds[0]} to {seeds[-1]}, medians:", flush=True)
    watcher = make_watcher(config.train.num_steps)

    def update(progress: Progress) -> None:
      watcher.update(progress)
      if progress.step >= config.train.num_steps:
        watcher.close()

    return update

  return run_seeds(
    experiment, directory, plan, should_stop=interrupt.asked, watch=watch
  )


def report(sweep: Sweep) -> dict[str, Any]:
  """Writes results, summaries and figures; returns the summary."""
  directory, results, outcomes = sweep.directory, {}, []
  for seed, experiment, run in sweep.seeds():
    results[seed] = write_results(experiment, run)
    outcomes.append(_outcome(run, seed, results[seed]))
  joined = join_seeds(results)
  write_dataset(joined, directory.results)
  summary = summarise_seeds(outcomes)
  write_json(directory.summary, summary)
  print(format_seeds(summary))
  form = sweep.experiment.config.report.format
  for path in write_seed_figures(directory.figures, joined, outcomes, form):
    print(f"figure: {path}")
  return summary


def _outcome(run: RunDirectory, seed: int, results: Any) -> Outcome:
  """Writes the summary of a seed, and returns its transition and events."""
  findings = find(results)
  note = read_divergence(run)
  if "train_loss" in results:
    summary = write_summary(run, results, findings)
    if note:
      write_json(run.summary, summary | {"diverged": note})
  if note:
    print(f"seed {seed} diverged: {note['reason']}", file=sys.stderr)
  return outcome(seed, results, findings, note["step"] if note else None)


def report_unfinished(sweep: Sweep) -> None:
  """Writes the joint results.nc of a sweep that was stopped.

  Files of each seed are only written at the end of the sweep, because they
  take longer than a process may have after a signal.
  """
  results = {}
  for seed, experiment, run in sweep.seeds():
    with contextlib.suppress(ConfigError):  # nothing was measured yet
      results[seed] = make_results(experiment, run)
  if results:
    write_dataset(join_seeds(results), sweep.directory.results)


if __name__ == "__main__":
  command_line.run_main(main)
