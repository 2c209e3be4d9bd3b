"""The run: chunks of steps, probes when due, checkpoints.

Everything here is host work; what runs on the device comes from the floors
below as pure functions and is compiled once.
"""

import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from induction_jax.config import Config
from induction_jax.devices import processes
from induction_jax.measurements import HeldOut, Probe
from induction_jax.measurements.alarm import (
  ALARM,
  DENSER,
  WATCHED,
  alarm_constants,
  alarm_signal,
  alarm_values,
)
from induction_jax.run.experiment import Experiment
from induction_jax.run.log import DivergedError, Ledger, RunLedger
from induction_jax.run.measuring import observe
from induction_jax.run.schedule import (
  checkpoint_due,
  measurement_due,
  next_stop,
)
from induction_jax.run.snapshots import (
  Snapshot,
  check_start,
  load_together,
  save_snapshot,
)
from induction_jax.run.timing import Cost
from induction_jax.run.waiting import AbandonedError, attend
from induction_jax.storage import checkpoints
from induction_jax.storage.run_directory import RunDirectory
from induction_jax.training.state import TrainState
from induction_jax.training.step import no_updates
from induction_jax.transition import trigger
from induction_jax.types import PyTree

# A stop waits for the updates under way: so long, or one update.
PIECE_SECONDS = 1.0


class Progress(NamedTuple):
  """What is known of a run at a step, for whoever watches."""

  step: int
  values: dict[str, float]  # newest scalars by variable name


Watcher = Callable[[Progress], None]


class End(NamedTuple):
  """Where a run came to.

  Attributes:
    step: updates made.
    complete: whether they are all, and all that was due has been measured.
  """

  step: int
  complete: bool


def run(
  experiment: Experiment,
  directory: RunDirectory,
  *,
  cost: Cost | None = None,
  ledger: Ledger | None = None,
  should_stop: Callable[[], bool] = lambda: False,
  watch: Watcher = lambda progress: None,
) -> End:
  """Trains and measures to the end, from the newest checkpoint if any.

  At every step where something is due, the probes measure first, then a
  checkpoint is saved; so a checkpoint's history is complete up to its step,
  and a resumed run repeats nothing and skips nothing. A run that is stopped
  saves what it is at: in the middle of a chunk of updates its sums so far, in
  a measurement the state that is to be measured again.

  Args:
    experiment: from make_experiment.
    directory: where the run lives.
    cost: clock of the run; by default one that starts now.
    ledger: where measurements go; by default into the directory.
    should_stop: asked again and again; true saves a checkpoint and returns. A
      thread may then be at a measurement still: end the process by os._exit.
      Of several processes all ask as often, between two pieces of work, and
      must be told the same.
    watch: told after every piece of work.

  Returns:
    Where it came to; not complete only if it was stopped.

  Raises:
    DivergedError: if loss, gradient, parameters or Hessian products stop
      being finite; the last good state is saved.
    ConfigError: if the run cannot go on, for want of a good checkpoint.
    OSError: if something cannot be written.
  """
  config = experiment.config
  ledger, cost = ledger or RunLedger(directory), cost or Cost(directory)
  snapshot, resumed = load_together(experiment, directory, ledger)
  snapshot = _with_alarm_on_host(snapshot)
  start, recorded = snapshot.step, snapshot.recorded
  size = checkpoints.checkpoint_bytes(snapshot)
  processes.on_first_process(
    lambda: check_start(directory, start, resumed, size, ledger, config)
  )
  ledger.begin(start if resumed else -1, recorded)
  kept = snapshot if resumed else None
  # Who is at a measurement with others does not leave them to it.
  gives_up = should_stop if processes.is_single() else lambda: False
  work = _advance(experiment, snapshot, resumed, ledger, cost, gives_up)
  try:
    for snapshot, newest in work:
      watch(Progress(snapshot.step, newest))
      stopping = _is_complete(snapshot, config) or should_stop()
      due = snapshot.recorded and checkpoint_due(snapshot.step, config)
      if (stopping or due) and snapshot is not kept:
        save_snapshot(directory, snapshot, ledger, cost)
        kept = snapshot
      if stopping:
        break
  except AbandonedError:
    if snapshot is not kept and snapshot.step:  # at step 0 is nothing to save
      save_snapshot(directory, snapshot, ledger, cost)
  except DivergedError as error:
    if snapshot.step:
      none = jnp.full_like(snapshot.updates.first_bad_step, -1)
      updates = snapshot.updates._replace(first_bad_step=none)
      save_snapshot(directory, snapshot._replace(updates=updates), ledger, cost)
    ledger.diverged(snapshot.step, error)
    good = max(checkpoints.steps(directory.checkpoints), default=None)
    raise DivergedError(
      error.step,
      f"{error}; the last good checkpoint is at step {good}, from which this "
      "config fails again",
    ) from error
  return End(snapshot.step, _is_complete(snapshot, config))


def _is_complete(snapshot: Snapshot, config: Config) -> bool:
  return snapshot.recorded and snapshot.step >= config.train.num_steps


def _advance(
  experiment: Experiment,
  snapshot: Snapshot,
  resumed: bool,
  ledger: Ledger,
  cost: Cost,
  gives_up: Callable[[], bool],
) -> Iterator[tuple[Snapshot, dict[str, float]]]:
  """A run, piece by piece of work: each gives what can be saved after it.

  Raises:
    AbandonedError: if it is given up; the snapshot given last is still good.
    DivergedError: the same, in its updates where it could not go on.
  """
  config = experiment.config
  held_out = attend(partial(experiment.draw, snapshot.state.key), gives_up)
  newest: dict[str, float] = {}
  pace = math.inf  # seconds an update
  if resumed:
    yield snapshot, newest
  else:
    _record_constants(experiment, snapshot, held_out, ledger, gives_up)
  while True:
    if not resumed or _record_due(experiment, snapshot):
      resumed = True
      with cost.measuring:
        snapshot, found = _record(
          experiment, snapshot, held_out, ledger, gives_up
        )
      newest |= found
    else:
      if pace == math.inf:
        attend(partial(_compile, experiment, snapshot), gives_up)
      intervals = [
        _interval(probe, snapshot.carries, config)
        for probe in experiment.probes
      ]
      most = max(1, int(PIECE_SECONDS / pace))
      most = int(processes.broadcast(most))  # clocks differ
      to_go = next_stop(snapshot.step, intervals, config) - snapshot.step
      start = time.perf_counter()
      with cost.training:
        snapshot = _train(experiment, snapshot, min(most, to_go))
      pace = (time.perf_counter() - start) / min(most, to_go)
      cost.stepped()
    yield snapshot, newest


def _with_alarm_on_host(snapshot: Snapshot) -> Snapshot:
  """Where it decides what is due."""
  carries = dict(snapshot.carries)
  if ALARM.name in carries:
    carries[ALARM.name] = jax.device_get(carries[ALARM.name])
  return snapshot._replace(carries=carries)


def _train(experiment: Experiment, snapshot: Snapshot, num: int) -> Snapshot:
  """Some updates; the snapshot before them is gone."""
  state, updates = experiment.train_chunk(
    snapshot.state, np.int32(num), snapshot.updates
  )
  jax.block_until_ready(updates)
  return snapshot._replace(state=state, updates=updates)


def _compile(experiment: Experiment, snapshot: Snapshot) -> None:
  """Compiles the updates apart from the first, which uses its state up."""
  copy = jax.tree.map(jnp.copy, snapshot.state)
  jax.block_until_ready(
    experiment.train_chunk(copy, np.int32(0), snapshot.updates)
  )


def _record_constants(
  experiment: Experiment,
  snapshot: Snapshot,
  held_out: HeldOut,
  ledger: Ledger,
  gives_up: Callable[[], bool],
) -> None:
  for probe in experiment.probes:
    work = partial(probe.constants, snapshot.state, held_out)
    constants = processes.fetch(attend(work, gives_up))
    ledger.constants(probe, constants)
  if ALARM.name in snapshot.carries:
    ledger.constants(ALARM, alarm_constants())


def _record(
  experiment: Experiment,
  snapshot: Snapshot,
  held_out: HeldOut,
  ledger: Ledger,
  gives_up: Callable[[], bool],
) -> tuple[Snapshot, dict[str, float]]:
  """Writes down the updates since the last record, and measures what is due."""
  step, state, carries = snapshot.step, snapshot.state, dict(snapshot.carries)
  newest: dict[str, float] = {}
  if not snapshot.recorded or _failed(snapshot):
    newest |= ledger.trained(step, processes.fetch(snapshot.updates))
  for probe in experiment.probes:
    interval = _interval(probe, carries, experiment.config)
    if not measurement_due(step, interval, experiment.config.train.num_steps):
      continue
    work = partial(_observe_and_keep, probe, state, held_out)
    carry = carries[probe.name]
    arrays, kept, carry = attend(partial(work, carry), gives_up)
    newest |= ledger.measured(step, probe, arrays, kept)
    carries[probe.name] = carry
    if probe.name == WATCHED and ALARM.name in carries:
      alarm = trigger.update(carries[ALARM.name], alarm_signal(arrays))
      newest |= ledger.measured(step, ALARM, alarm_values(alarm), {})
      carries[ALARM.name] = alarm
  return Snapshot(state, no_updates(state.step), carries), newest


def _observe_and_keep(
  probe: Probe, state: TrainState, held_out: HeldOut, carry: PyTree
) -> tuple[PyTree, PyTree, PyTree]:
  arrays, carry = observe(probe, state, held_out, carry)
  return arrays, processes.fetch(probe.keep(carry)), carry


def _failed(snapshot: Snapshot) -> bool:
  """Whether no update can be made: of many runs, in none."""
  return bool(np.all(processes.fetch(snapshot.updates.first_bad_step) >= 0))


def _record_due(experiment: Experiment, snapshot: Snapshot) -> bool:
  """Whether a chunk of updates is at its end, or cannot go on."""
  if _failed(snapshot):
    return True
  if snapshot.recorded:
    return False
  config, step = experiment.config, snapshot.step
  intervals = [
    _interval(probe, snapshot.carries, config) for probe in experiment.probes
  ]
  return next_stop(step - 1, intervals, config) == step


def _interval(probe: Probe, carries: dict[str, PyTree], config: Config) -> int:
  """Steps between a probe's measurements as things stand."""
  alarm = carries.get(ALARM.name)
  if probe.name == DENSER and alarm and alarm.alarm:
    return config.spectra.adaptive
  return probe.interval
