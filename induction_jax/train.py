r"""Trains a network, measures it while it trains, and reports what it found.

  python -m induction_jax.train --config configs/quick.py
  python -m induction_jax.train --config configs/base.py --workdir runs/a \
    --config.model.n_layers=4

The same command on the same --workdir goes on where it stopped.
"""

import contextlib
import shlex
import sys
import time
from pathlib import Path

import jax

from induction_jax.commands import command_line
from induction_jax.commands.figures import draw_figures
from induction_jax.commands.interrupt import Interrupt
from induction_jax.commands.progress import make_watcher
from induction_jax.config import Config, ConfigError
from induction_jax.devices import processes
from induction_jax.devices.mesh import check_all_devices_used, devices
from induction_jax.report.findings import find
from induction_jax.report.summary import write_summary
from induction_jax.report.text import format_summary
from induction_jax.run.experiment import (
  Experiment,
  make_experiment,
  make_reader,
)
from induction_jax.run.loop import run
from induction_jax.run.results import make_results, write_results
from induction_jax.run.schedule import TrainingSchedule
from induction_jax.run.store import RunStore
from induction_jax.run.timing import Timing
from induction_jax.storage import lock
from induction_jax.storage.run_directory import RunDirectory, open_run

DIVERGED = 1


def main(argv: list[str]) -> int:
  """Runs the command line; returns the exit status."""
  started = time.strftime("%Y%m%d_%H%M%S")
  parser = command_line.make_parser("train", "--config FILE", __doc__)
  command_line.add_config_flag(parser)
  parser.add_argument(
    "--workdir",
    metavar="DIR",
    help="Directory of the run. Default: runs/induction_run_<timestamp>.",
  )
  parser.add_argument(
    "--noresume",
    dest="resume",
    action="store_false",
    help="Refuse a --workdir that holds a run, instead of going on with it.",
  )
  command_line.add_process_flags(parser)
  values = command_line.parse(parser, argv)
  config = command_line.config_from(values)
  if config.mesh.seeds:
    raise ConfigError(
      "mesh.seeds shares the seeds of a sweep, and this is one run: leave it "
      f"at 0, got {config.mesh.seeds}"
    )
  if values.workdir == "":
    raise ConfigError("--workdir must name a directory, got an empty name")
  command_line.join_processes(values)
  check_all_devices_used(devices(config.mesh))
  root = Path(values.workdir or f"runs/induction_run_{started}")
  return train(config, root, values.resume, argv)


def train(config: Config, root: Path, resume: bool, argv: list[str]) -> int:
  """Runs a config in a directory, to its figures; returns the exit status."""
  started = time.perf_counter()
  experiment = make_experiment(config)  # before anything is written
  directory = RunDirectory(root)
  with contextlib.ExitStack() as stack:

    def enter() -> None:
      open_run(root, config, resume)
      stack.enter_context(lock.hold(root))

    processes.on_first_process(enter)
    status = _train(experiment, directory, started, _again(argv, root))
    processes.disconnect()
    return status


def _train(
  experiment: Experiment, directory: RunDirectory, started: float, again: str
) -> int:
  config, root = experiment.config, directory.root
  print(f"run directory: {root}", flush=True)
  print(f"Hessian products: {experiment.description}")
  told = f"devices: {devices(config.mesh)} of {jax.device_count()}"
  print(told, flush=True)
  timing = Timing(directory, started)
  with Interrupt(resume_command=again) as interrupt:
    watcher = make_watcher(config.train.num_steps)
    try:
      end = run(
        experiment,
        TrainingSchedule(config, experiment.measurements),
        RunStore([directory], timing),
        should_stop=interrupt.asked,
        watch=watcher.update,
      )
    except FloatingPointError as error:
      if processes.is_first():
        print(f"error: {error}", file=sys.stderr)
        _write_what_there_is(experiment, directory)
      return DIVERGED
    finally:
      watcher.close()
    if not end.complete:
      if processes.is_first():
        _write_what_there_is(experiment, directory)
      interrupt.leave(f"stopped at step {end.step}")
    with interrupt.at_once():
      if processes.is_first():
        _report(experiment, directory, timing)
  return 0


def _report(
  experiment: Experiment, directory: RunDirectory, timing: Timing
) -> None:
  if not processes.is_single():  # whose devices are not all at hand
    experiment = make_reader(experiment.config)
  results = write_results(experiment, directory)
  findings = find(results)
  form = experiment.config.report.format
  draw_figures(experiment, directory, results, findings, form)
  timing.save()
  if directory.zoomed.exists():  # whose answer stands beside the run's own
    results = make_results(experiment, directory, zooms=False)
    findings = find(results)
  print(format_summary(write_summary(directory, results, findings)))


def _write_what_there_is(
  experiment: Experiment, directory: RunDirectory
) -> None:
  """Results of a run that ended early, perhaps before its first measurement."""
  with contextlib.suppress(ConfigError):
    write_results(experiment, directory)


def _again(argv: list[str], root: Path) -> str:
  """The command that goes on with this run."""
  kept = [a for a in argv[1:] if a not in ("--noresume", "--no-resume")]
  if not any(a.startswith("--workdir") for a in kept):
    kept.append(f"--workdir={root}")
  return "python -m induction_jax.train " + shlex.join(kept)


if __name__ == "__main__":
  command_line.run_main(main)
