r"""Trains a network, measures it during training, and reports the results.

  python -m induction_jax.train --config configs/quick.py
  python -m induction_jax.train --config configs/base.py --workdir runs/a \
    --config.model.n_layers=4

The same command on the same --workdir resumes the run.
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
from induction_jax.devices.mesh import check_all_devices_used, devices_per_seed
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
    help="Refuse a --workdir that contains a run, instead of resuming it.",
  )
  command_line.add_process_flags(parser)
  values = command_line.parse(parser, argv)
  config = command_line.config_from(values)
  if config.mesh.seeds:
    raise ConfigError(
      "mesh.seeds is a setting of sweeps and must be 0 for a single run, got "
      f"{config.mesh.seeds}"
    )
  if values.workdir == "":
    raise ConfigError("--workdir must name a directory, got an empty name")
  command_line.join_processes(values)
  check_all_devices_used(devices_per_seed(config.mesh))
  root = Path(values.workdir or f"runs/induction_run_{started}")
  return train(config, root, values.resume, argv)


def train(config: Config, root: Path, resume: bool, argv: list[str]) -> int:
  """Trains, measures and reports one run; returns the exit status.

  Args:
    config: the config of the run.
    root: the run directory.
    resume: whether the directory may contain a run, which is then resumed.
    argv: the command line, for the message that says how to resume.
  """
  started = time.perf_counter()
  experiment = make_experiment(config)  # raises before anything is written
  directory, status = RunDirectory(root), 0
  with contextlib.ExitStack() as locks:

    def open_directory() -> None:
      open_run(root, config, resume)
      locks.enter_context(lock.hold(root))

    processes.on_first_process(open_directory)
    print(f"run directory: {root}", flush=True)
    print(f"Hessian products: {experiment.description}")
    used = devices_per_seed(config.mesh)
    print(f"devices: {used} of {jax.device_count()}", flush=True)
    timing = Timing(directory, started)
    with Interrupt(_resume_command(argv, root)) as interrupt:
      try:
        num_steps = config.train.num_steps
        with contextlib.closing(make_watcher(num_steps)) as watcher:
          end = run(
            experiment,
            TrainingSchedule(config, experiment.measurements),
            RunStore([directory], timing),
            should_stop=interrupt.asked,
            watch=watcher.update,
          )
      except FloatingPointError as error:
        status = DIVERGED
        report_unfinished(experiment, directory, error)
      else:
        if not end.complete:
          report_unfinished(experiment, directory)
          interrupt.leave(f"stopped at step {end.step}")
        with interrupt.at_once():
          report(experiment, directory, timing)
    processes.disconnect()
  return status


def report(
  experiment: Experiment, directory: RunDirectory, timing: Timing
) -> None:
  """Writes results, figures and summary. The first process works alone."""
  if not processes.is_first():
    return
  if not processes.is_single():  # other processes' devices are out of reach
    experiment = make_reader(experiment.config)
  results = write_results(experiment, directory)
  findings = find(results)
  form = experiment.config.report.format
  draw_figures(experiment, directory, results, findings, form)
  timing.save()
  if directory.zoomed.exists():
    # The summary dates the transition without the zoom's measurements.
    results = make_results(experiment, directory, zooms=False)
    findings = find(results)
  print(format_summary(write_summary(directory, results, findings)))


def report_unfinished(
  experiment: Experiment,
  directory: RunDirectory,
  error: FloatingPointError | None = None,
) -> None:
  """Writes results of a run that diverged or was stopped, if there are any."""
  if not processes.is_first():
    return
  if error is not None:
    print(f"error: {error}", file=sys.stderr)
  with contextlib.suppress(ConfigError):  # nothing was measured yet
    write_results(experiment, directory)


def _resume_command(argv: list[str], root: Path) -> str:
  kept = [a for a in argv[1:] if a not in ("--noresume", "--no-resume")]
  if not any(a.startswith("--workdir") for a in kept):
    kept.append(f"--workdir={root}")
  return "python -m induction_jax.train " + shlex.join(kept)


if __name__ == "__main__":
  command_line.run_main(main)
