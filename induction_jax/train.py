r"""Trains a network, measures it while it trains, and reports what it found.

  python -m induction_jax.train --config configs/quick.py
  python -m induction_jax.train --config configs/base.py --workdir runs/a \
    --config.model.n_layers=4

The same command on the same --workdir goes on where it stopped.
"""

import shlex
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from absl import flags

from induction_jax import cli, visualize
from induction_jax.config import Config, ConfigError
from induction_jax.loop import make_experiment, run, write_results
from induction_jax.progress import make_watcher
from induction_jax.report.findings import find
from induction_jax.report.summary import format_summary
from induction_jax.report.write import write_summary
from induction_jax.storage.run_directory import open_run

DIVERGED = 1


class Interrupt:
  """Turns SIGINT and SIGTERM into a request to stop between chunks."""

  def __init__(self) -> None:
    self.signal = 0

  def __enter__(self) -> "Interrupt":
    self._before = {
      number: signal.signal(number, self._note)
      for number in (signal.SIGINT, signal.SIGTERM)
    }
    return self

  def __exit__(self, *_: object) -> None:
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def _note(self, number: int, _: FrameType | None) -> None:
    if self.signal:  # a second signal does not wait
      raise KeyboardInterrupt
    self.signal = number
    print(
      "\nstopping after this chunk; again to stop at once",
      file=sys.stderr,
      flush=True,
    )


def main(argv: list[str]) -> int:
  """Runs the command line; returns the exit status."""
  started = time.strftime("%Y%m%d_%H%M%S")
  values = flags.FlagValues()
  flags.DEFINE_string(
    "workdir",
    None,
    "Directory of the run; default runs/induction_run_<timestamp>.",
    flag_values=values,
  )
  flags.DEFINE_boolean(
    "resume",
    True,
    "Go on with the run in --workdir; --noresume refuses one that exists.",
    flag_values=values,
  )
  cli.add_config_flag(values, argv)
  extra = cli.parse(values, argv, __doc__ or "")
  if extra:
    raise ConfigError(f"unexpected argument {extra[0]!r}")
  config = cli.config_from(values)
  root = Path(values.workdir or f"runs/induction_run_{started}")
  return train(config, root, values.resume, argv)


def train(config: Config, root: Path, resume: bool, argv: list[str]) -> int:
  """Runs a config in a directory, to its figures; returns the exit status."""
  directory = open_run(root, config, resume)
  print(f"run directory: {root}", flush=True)
  experiment = make_experiment(config)
  watcher = make_watcher(config.train.num_steps)
  with Interrupt() as interrupt:
    try:
      step = run(
        experiment,
        directory,
        should_stop=lambda: bool(interrupt.signal),
        watch=watcher.update,
      )
    except FloatingPointError as error:
      print(f"error: {error}", file=sys.stderr)
      return DIVERGED
    finally:
      watcher.close()
  results = write_results(experiment, directory)
  if step < config.train.num_steps:
    print(f"stopped at step {step}; to go on:\n  {_again(argv, root)}")
    return 128 + interrupt.signal
  findings = find(results)
  print(format_summary(write_summary(directory, results, findings)))
  visualize.draw(experiment, directory, results, findings, config.report.format)
  return 0


def _again(argv: list[str], root: Path) -> str:
  """The command that goes on with this run."""
  kept = [a for a in argv[1:] if a != "--noresume"]
  if not any(a.startswith("--workdir") for a in kept):
    kept.append(f"--workdir={root}")
  return "python -m induction_jax.train " + shlex.join(kept)


if __name__ == "__main__":
  cli.run_main(main)
