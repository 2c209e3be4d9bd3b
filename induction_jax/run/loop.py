"""The loop: train a chunk of steps, measure what is due, save what is due.

A run's own training, a replay of it and many seeds at once all go through
`run`. They differ in the experiment (what is compiled), the schedule (what is
due when) and the store (where results go).
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

from induction_jax.devices import processes
from induction_jax.measurements import EvaluationBatches, Inputs, Measurement
from induction_jax.run.experiment import Experiment, map_functions
from induction_jax.run.log import DivergedError
from induction_jax.run.schedule import Schedule
from induction_jax.run.snapshots import Snapshot
from induction_jax.run.store import Store
from induction_jax.run.waiting import AbandonedError, interruptible
from induction_jax.types import PyTree

Scalars = dict[str, float]  # newest values by variable name


class Progress(NamedTuple):
  """What is known of a run at a step, for a progress bar."""

  step: int
  values: Scalars


Watcher = Callable[[Progress], None]


class End(NamedTuple):
  """The step that a run reached, and whether all of it is done."""

  step: int
  complete: bool


def run(
  experiment: Experiment,
  schedule: Schedule,
  store: Store,
  *,
  should_stop: Callable[[], bool] = lambda: False,
  watch: Watcher = lambda progress: None,
) -> End:
  """Trains, measures and saves to the last step, or until it should stop.

  The work comes in pieces: train to the next step at which something is due,
  and measure there. What was measured is on disk before the checkpoint that may
  follow, so no record is missing or doubled after a resume. If the run should
  stop in the middle of a piece, the piece is abandoned and the snapshot before
  it is saved; a resumed run makes the piece again, with the same bits.

  Args:
    experiment: what is trained and measured.
    schedule: when to measure and to save.
    store: where to start from, and where results go.
    should_stop: asked again and again; true ends the run. A thread may then
      still be running an abandoned program, so end the process by os._exit. If
      several processes share the run, all must get the same answer, and a piece
      is never abandoned.
    watch: called after every piece.

  Raises:
    DivergedError: if loss, gradient, parameters or a Hessian product are no
      longer finite. The last good state has been saved.
    ConfigError: if the run cannot be resumed.
    OSError: if results cannot be written.
  """
  snapshot, resumed = store.open(experiment, schedule)
  on_disk = snapshot if resumed else None
  # If one of several processes abandoned a shared program, the others would
  # wait for it forever.
  abandon = should_stop if processes.is_single() else lambda: False
  wait_for = partial(interruptible, should_stop=abandon)
  experiment = map_functions(experiment, wait_for)
  pieces = _work(experiment, schedule, store, snapshot, resumed)
  try:
    for snapshot, values in pieces:
      watch(Progress(snapshot.step, values))
      complete = snapshot.step >= schedule.last_step
      stopping = complete or should_stop()
      due = stopping or schedule.checkpoint_is_due(snapshot.step)
      if due and snapshot is not on_disk:
        store.save(snapshot)
        on_disk = snapshot
      if stopping:
        return End(snapshot.step, complete)
  except AbandonedError:
    # A run at step 0 has nothing to save.
    if snapshot.step and snapshot is not on_disk:
      store.save(snapshot)
  except DivergedError as error:
    good = error.last_good or snapshot
    if good.step and good is not on_disk:
      store.save(good)
    raise store.diverged(error) from error
  return End(snapshot.step, complete=False)


def _work(
  experiment: Experiment,
  schedule: Schedule,
  store: Store,
  snapshot: Snapshot,
  resumed: bool,
) -> Iterator[tuple[Snapshot, Scalars]]:
  """The pieces of a run: each yields a snapshot at which all is recorded."""
  batches = experiment.draw(snapshot.state.key)
  values: Scalars = {}
  if not resumed:
    _record_nulls(experiment, store, snapshot, batches)
    snapshot, values = _measure_due(
      experiment, schedule, store, snapshot, batches
    )
  yield snapshot, values
  while snapshot.step < schedule.last_step:
    snapshot, values = _train(experiment, schedule, store, snapshot)
    snapshot, measured = _measure_due(
      experiment, schedule, store, snapshot, batches
    )
    yield snapshot, values | measured


def _train(
  experiment: Experiment, schedule: Schedule, store: Store, snapshot: Snapshot
) -> tuple[Snapshot, Scalars]:
  """Trains to the next step at which something is due."""
  stop = schedule.next_stop(snapshot.step, snapshot.carries)
  with store.timing.training:
    num_steps = np.int32(stop - snapshot.step)
    state, metrics = experiment.train_chunk(snapshot.state, num_steps)
  snapshot = snapshot._replace(state=state)
  try:
    return snapshot, store.trained(stop, processes.fetch(metrics))
  except DivergedError as error:
    error.last_good = snapshot  # training stopped before the bad update
    raise


def _measure_due(
  experiment: Experiment,
  schedule: Schedule,
  store: Store,
  snapshot: Snapshot,
  batches: EvaluationBatches,
) -> tuple[Snapshot, Scalars]:
  """Makes and records the measurements that are due."""
  step, values = snapshot.step, Scalars()

  def record(measurement: Measurement, arrays: PyTree) -> None:
    values.update(store.measured(step, measurement, arrays))

  with store.timing.measuring:
    snapshot = measure(
      experiment,
      snapshot,
      batches,
      lambda each, carries: schedule.is_due(each, step, carries),
      record,
    )
  return snapshot, values


def measure(
  experiment: Experiment,
  snapshot: Snapshot,
  batches: EvaluationBatches,
  is_due: Callable[[Measurement, dict[str, PyTree]], bool],
  record: Callable[[Measurement, PyTree], None],
) -> Snapshot:
  """Makes measurements of one state, and those that they use.

  Args:
    experiment: whose measurements to make.
    snapshot: the state, and the carries to start from. A measurement without
      a carry there starts from its initial one, and leaves none.
    batches: from `experiment.draw`.
    is_due: (measurement, carries so far) -> whether to make it. One that
      another uses is made in any case.
    record: called with each measurement's arrays, on the host.

  Returns:
    The snapshot with the new carries.
  """
  by_name = {each.name: each for each in experiment.all_measurements}
  state, carries = snapshot.state, dict(snapshot.carries)
  results: dict[str, PyTree] = {}

  def result(name: str) -> PyTree:
    if name not in results:
      if name in experiment.shared:
        results[name] = experiment.shared[name](state, batches)
      else:
        results[name] = make(by_name[name])
    return results[name]

  def make(measurement: Measurement) -> PyTree:
    used = {name: result(name) for name in measurement.uses}
    name = measurement.name
    carry = carries.get(name) or measurement.init_carry(state.params)
    arrays = measurement.measure(Inputs(state, batches, used, carry))
    if name in carries:
      carries[name] = {each: arrays[each] for each in carry}
    # A carry is kept in checkpoints; it is recorded only if it is declared.
    declared = {variable.name for variable in measurement.variables}
    recorded = {
      each: x
      for each, x in arrays.items()
      if each in declared or each not in carry
    }
    record(measurement, processes.fetch(recorded))
    return arrays

  for measurement in experiment.all_measurements:
    if is_due(measurement, carries):
      result(measurement.name)
  return snapshot._replace(carries=carries)


def _record_nulls(
  experiment: Experiment,
  store: Store,
  snapshot: Snapshot,
  batches: EvaluationBatches,
) -> None:
  for measurement in experiment.measurements:
    arrays = measurement.nulls(Inputs(snapshot.state, batches, {}, {}))
    store.nulls(measurement, processes.fetch(arrays))
