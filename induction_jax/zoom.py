"""Measures a part of a run more densely, by replaying it bit for bit.

  python -m induction_jax.zoom runs/a
  python -m induction_jax.zoom runs/a --from=380 --to=430 --every=1
  python -m induction_jax.zoom runs/a --measurements=behaviour,spectra,circuits

The replay starts at the newest checkpoint before --from, measures with the
run's own settings from --from to --to, and continues to the next checkpoint.
The replayed state is compared with every checkpoint on the way: if all bits
are equal, the measurements are of the run itself.

By default the range is the transition in results.nc, from onset to completion,
widened by its own length on either side, with about 100 measurements. They are
written to zoomed.jsonl and join results.nc at steps at which the run measured
nothing. History and checkpoints do not change. Overlaps with the previous
measurement are not measured in a zoom. The transition, dated with all
measurements, is printed and added to summary.json as `zoom`.
"""

import contextlib
import math
import shlex
import sys
from typing import Any

from induction_jax.commands import command_line
from induction_jax.commands.figures import draw_figures
from induction_jax.commands.interrupt import Interrupt
from induction_jax.commands.progress import make_watcher
from induction_jax.config import ConfigError
from induction_jax.devices.mesh import fit_to_devices
from induction_jax.measurements import names_at_checkpoints
from induction_jax.report.findings import find
from induction_jax.report.summary import add_zoom, summarise_zoom
from induction_jax.run.experiment import Experiment, make_experiment
from induction_jax.run.replay import (
  Comparison,
  ReplayPlan,
  last_step,
  make_plan,
  replay,
)
from induction_jax.run.results import make_results, write_results
from induction_jax.storage import checkpoints, lock
from induction_jax.storage.environment import changed_environment
from induction_jax.storage.run_directory import RunDirectory, load_run

FAILED = 1  # the replay differs from the run, or is not finite
DEFAULT = ("behaviour", "spectra")  # measurements, if the run makes them
ABOUT = 100  # the default number of steps to measure


def main(argv: list[str]) -> int:
  """Runs the command line; returns the exit status."""
  parser = command_line.make_parser(
    "zoom", "RUN", __doc__, ", or the replay differs from the run"
  )
  command_line.add_run_argument(parser)
  for flag, meaning in (
    ("--from", "First step to measure. Default: before the transition."),
    ("--to", "Last step to measure. Default: after the transition."),
    ("--every", "Steps between measurements. Default: about 100 in all."),
  ):
    parser.add_argument(flag, type=int, metavar="N", help=meaning)
  parser.add_argument(
    "--measurements",
    metavar="A,B",
    help=f"Some of the run's measurements. Default: {','.join(DEFAULT)}.",
  )
  values = command_line.parse(parser, argv)
  directory, config = load_run(command_line.run_directory(parser, values))
  if not checkpoints.steps(directory.checkpoints):
    raise ConfigError(
      f"{directory.root} has no checkpoint: there is nothing to replay from"
    )
  experiment = make_experiment(fit_to_devices(config))._replace(config=config)
  names = _chosen_measurements(values.measurements, experiment)
  first, last = getattr(values, "from"), values.to
  if first is None or last is None:
    around = _around_transition(experiment, directory)
    first = around[0] if first is None else first
    last = around[1] if last is None else last
  every = values.every
  if every is None:
    every = max(1, math.ceil((last - first) / ABOUT))
  plan = make_plan(directory, first, last, every)
  with lock.hold(directory.root):
    return zoom(experiment, directory, plan, names)


def zoom(
  experiment: Experiment,
  directory: RunDirectory,
  plan: ReplayPlan,
  names: list[str],
) -> int:
  """Replays, compares with the checkpoints, and draws the figures again.

  Args:
    experiment: the experiment of the run, on this machine's devices.
    directory: the run directory.
    plan: the steps to replay and to measure.
    names: names of the measurements to make.

  Returns:
    The exit status.
  """
  changed = changed_environment(directory.environment)
  if changed:
    print(
      f"warning: {changed}: the replay may differ in its bits", file=sys.stderr
    )
  chosen = ",".join(names)
  print(
    f"replaying {plan.start} -> {plan.stop}: {chosen} at {len(plan.steps)} "
    f"steps from {plan.first} to {plan.last}",
    flush=True,
  )
  resume_command = (
    f"python -m induction_jax.zoom {shlex.quote(str(directory.root))} "
    f"--from={plan.first} --to={plan.last} --every={plan.every} "
    f"--measurements={chosen}"
  )
  with Interrupt(resume_command) as interrupt:
    try:
      with contextlib.closing(make_watcher(plan.stop)) as watcher:
        end, compared = replay(
          experiment,
          directory,
          plan,
          names,
          should_stop=interrupt.asked,
          watch=watcher.update,
        )
    except FloatingPointError as error:
      print(f"error: {error}", file=sys.stderr)
      write_results(experiment, directory)
      return FAILED
    results = write_results(experiment, directory)
    print(_describe_comparisons(plan, compared), flush=True)
    if not end.complete:
      interrupt.leave(f"stopped at step {end.step}")
    with interrupt.at_once():
      findings = find(results)
      zoomed = summarise_zoom(findings.transition)
      steps = {"from": plan.first, "to": plan.last, "every": plan.every}
      add_zoom(directory, steps | zoomed)
      form = experiment.config.report.format
      draw_figures(experiment, directory, results, findings, form)
      print(_describe_transition(zoomed))
  differs = not all(each.equal for each in compared)
  return FAILED if differs and not changed else 0


def _chosen_measurements(
  listed: str | None, experiment: Experiment
) -> list[str]:
  names_of_run = [each.name for each in experiment.measurements]
  known = [name for name in names_at_checkpoints() if name in names_of_run]
  if listed is None:
    names = [name for name in DEFAULT if name in known]
  else:
    names = command_line.split(listed)
  for name in names:
    if name not in known:
      raise ConfigError(
        "--measurements must be some of the run's measurements "
        f"({', '.join(known)}), got {name!r}"
      )
  if not names:
    raise ConfigError(
      f"--measurements must be some of {', '.join(known)}, got none"
    )
  if "spectra" in names:
    names.append("eigenvectors")  # written to files if the run does so
  return [name for name in known if name in names]


def _around_transition(
  experiment: Experiment, directory: RunDirectory
) -> tuple[int, int]:
  """First and last step of the transition, widened by its own length."""
  transition = find(make_results(experiment, directory)).transition
  onset, completion = transition.onset, transition.completion
  if onset is None or completion is None:
    raise ConfigError(
      f"{directory.root} has no dated transition ({transition.status}: "
      f"{transition.reason}): give --from and --to"
    )
  length = completion.estimate - onset.estimate
  reached = last_step(directory)
  first = math.floor(onset.estimate - length)
  last = math.ceil(completion.estimate + length)
  return min(max(first, 0), reached), min(max(last, 0), reached)


def _describe_comparisons(plan: ReplayPlan, compared: list[Comparison]) -> str:
  """How the replay compares with the run's checkpoints, in one line."""
  start = f"replayed from {plan.start}: "
  if plan.checks and not compared:
    return start + (
      f"stopped before the checkpoint at {plan.checks[0]}, so nothing has been "
      "compared"
    )
  if not compared:
    return start + "no later checkpoint, so nothing could be compared"
  start = f"replayed {plan.start} -> {compared[-1].step}: "
  different = [each for each in compared if not each.equal]
  if different:
    first = different[0]
    return start + (
      f"differs from the checkpoint at {first.step}: largest relative "
      f"difference {first.difference:.2g}, in {first.leaf}"
    )
  steps = ", ".join(str(each.step) for each in compared)
  message = start + f"equal to the checkpoints at {steps}, bit for bit"
  if compared[-1].step < plan.stop:
    message += f"; nothing after {compared[-1].step} could be compared"
  return message


def _describe_transition(zoomed: dict[str, Any]) -> str:
  """The transition dated with all measurements, and its intervals."""
  lines = [f"transition on repeats: {zoomed['status']}"]
  if zoomed["width"] is None or zoomed["midpoint"] is None:
    return lines[0]
  for name in ("onset", "midpoint", "completion", "width"):
    dated = "{estimate:.1f} [{low:.1f}, {high:.1f}]".format(**zoomed[name])
    if name == "width":
      lines.append(f"  10-90 % width {dated} steps")
    else:
      lines.append(f"  {name:<11}{dated}")
  return "\n".join(lines)


if __name__ == "__main__":
  command_line.run_main(main)
