"""Looks at a stretch of a run more closely, by replaying it bit for bit.

  python -m induction_jax.zoom runs/a
  python -m induction_jax.zoom runs/a --from=380 --to=430 --every=1
  python -m induction_jax.zoom runs/a --measurements=behaviour,spectra,circuits

Training starts again at the newest checkpoint before the stretch, is measured
every few steps within it with the run's own settings, and goes on to the next
checkpoint. Every checkpoint on the way is compared with the replayed state:
where all bits are equal, what was measured is what the run went through.

By default the stretch is the transition that results.nc shows, from onset to
completion, with as much again on either side, measured about 100 times. What
is measured goes to zoomed.jsonl and joins results.nc at steps where the run
itself measured nothing; history.jsonl and the checkpoints are left as they
are. An overlap with the measurement before is not measured in a zoom. The
transition, dated from all that is measured now, is printed and stands in
summary.json as `zoom`, beside the run's own answer.
"""

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
from induction_jax.storage.run_directory import (
  RunDirectory,
  load_run,
)

FAILED = 1  # not the same bits, or numbers that are not finite
DEFAULT = ("behaviour", "spectra")  # by default, where the run has them
ABOUT = 100  # measurements by default


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
    help=f"Some of the run's own. Default: {','.join(DEFAULT)}.",
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
  """Replays, says how it compared, and draws; returns the exit status."""
  changed = changed_environment(directory.environment)
  if changed:
    print(f"warning: {changed}: the replay's bits may differ", file=sys.stderr)
  chosen = ",".join(names)
  print(
    f"replaying {plan.start} -> {plan.stop}: {chosen} at {len(plan.steps)} "
    f"steps from {plan.first} to {plan.last}",
    flush=True,
  )
  again = (
    f"python -m induction_jax.zoom {shlex.quote(str(directory.root))} "
    f"--from={plan.first} --to={plan.last} --every={plan.every} "
    f"--measurements={chosen}"
  )
  with Interrupt(resume_command=again) as interrupt:
    watcher = make_watcher(plan.stop)
    try:
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
    finally:
      watcher.close()
    results = write_results(experiment, directory)
    print(_verdict(plan, compared), flush=True)
    if not end.complete:
      interrupt.leave(f"stopped at step {end.step}")
    with interrupt.at_once():
      findings = find(results)
      zoomed = summarise_zoom(findings.transition)
      stretch = {"from": plan.first, "to": plan.last, "every": plan.every}
      add_zoom(directory, stretch | zoomed)
      form = experiment.config.report.format
      draw_figures(experiment, directory, results, findings, form)
      print(_describe(zoomed))
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
        "--measurements must be some of those that the run made "
        f"({', '.join(known)}), got {name!r}"
      )
  if not names:
    raise ConfigError(
      f"--measurements must be some of {', '.join(known)}, got none"
    )
  if "spectra" in names:
    names.append("eigenvectors")  # kept again if the run keeps them
  return [name for name in known if name in names]


def _around_transition(
  experiment: Experiment, directory: RunDirectory
) -> tuple[int, int]:
  """The transition with its own length on either side, within the run."""
  transition = find(make_results(experiment, directory)).transition
  onset, completion = transition.onset, transition.completion
  if onset is None or completion is None:
    raise ConfigError(
      f"{directory.root} shows no dated transition ({transition.status}: "
      f"{transition.reason}): give --from and --to"
    )
  length = completion.estimate - onset.estimate
  reached = last_step(directory)
  first = math.floor(onset.estimate - length)
  last = math.ceil(completion.estimate + length)
  return min(max(first, 0), reached), min(max(last, 0), reached)


def _verdict(plan: ReplayPlan, compared: list[Comparison]) -> str:
  """How the replay compares with the run, in one line."""
  if plan.checks and not compared:
    return (
      f"replayed from {plan.start}: stopped before the checkpoint at "
      f"{plan.checks[0]}, so nothing is checked yet"
    )
  if not compared:
    return (
      f"replayed from {plan.start}: no checkpoint comes after it to compare "
      "with, so nothing could be checked"
    )
  told = f"replayed {plan.start} -> {compared[-1].step}: "
  different = [each for each in compared if not each.equal]
  if different:
    first = different[0]
    return told + (
      f"differs from the checkpoint at {first.step}: largest relative "
      f"difference {first.difference:.2g}, in {first.leaf}"
    )
  steps = ", ".join(str(each.step) for each in compared)
  return (
    told
    + f"equal to the checkpoints at {steps}, bit for bit"
    + (
      f"; nothing after {compared[-1].step} could be checked"
      if compared[-1].step < plan.stop
      else ""
    )
  )


def _describe(zoomed: dict[str, Any]) -> str:
  """The transition again, from all that is measured now."""
  told = f"transition on repeats: {zoomed['status']}"
  if zoomed["width"] is None or zoomed["midpoint"] is None:
    return told
  lines = [told]
  for name in ("onset", "midpoint", "completion", "width"):
    said = "{estimate:.1f} [{low:.1f}, {high:.1f}]".format(**zoomed[name])
    if name == "width":
      lines.append(f"  10-90 % width {said} steps")
    else:
      lines.append(f"  {name:<11}{said}")
  return "\n".join(lines)


if __name__ == "__main__":
  command_line.run_main(main)
