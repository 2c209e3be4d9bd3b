"""Replays: part of a run again, bit for bit, to measure it more closely.

Training is a pure function of the state, and a run is one compiled program
however it is cut into chunks (see induction_jax.training.step). The steps after
a checkpoint can therefore be made again with the same bits. The replayed state
is compared with every checkpoint on the way. Nothing that the run wrote is
changed.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import numpy as np

from induction_jax.config import ConfigError
from induction_jax.devices.processes import key_data
from induction_jax.measurements import Inputs, Measurement
from induction_jax.run.experiment import Experiment
from induction_jax.run.log import DivergedError, scalars, split_large
from induction_jax.run.loop import End, Watcher, run
from induction_jax.run.schedule import Carries, Schedule
from induction_jax.run.snapshots import Snapshot, init_snapshot
from induction_jax.run.timing import Timing
from induction_jax.storage import checkpoints, history
from induction_jax.storage.run_directory import RunDirectory
from induction_jax.storage.tensors import write_arrays
from induction_jax.training.state import TrainState
from induction_jax.training.step import ChunkMetrics
from induction_jax.types import PyTree


class ReplayPlan(NamedTuple):
  """What to replay, and what to measure and to check on the way."""

  first: int  # of the steps to measure
  last: int
  every: int
  start: int  # the checkpoint that the replay starts from
  stop: int  # the first checkpoint at or after `last`, or else `last`
  checks: tuple[int, ...]  # checkpoints that the replay passes

  @property
  def steps(self) -> range:
    """The steps to measure."""
    return range(self.first, self.last + 1, self.every)


class Comparison(NamedTuple):
  """A replayed state beside the checkpoint of the same step.

  Attributes:
    step: the step.
    equal: whether every bit of every leaf is.
    leaf: the leaf that differs most, empty if none does.
    difference: its largest difference over its largest magnitude.
  """

  step: int
  equal: bool
  leaf: str
  difference: float


def last_step(directory: RunDirectory) -> int:
  """How far a run has come, finished or not."""
  steps = [record["step"] for record in history.read(directory.history)]
  return max([*steps, *checkpoints.steps(directory.checkpoints)], default=0)


def make_plan(
  directory: RunDirectory, first: int, last: int, every: int
) -> ReplayPlan:
  """From the newest checkpoint before `first` to the next after `last`.

  Raises:
    ConfigError: if the run has not all of these steps, or no checkpoint to
      start from.
  """
  reached, saved = (
    last_step(directory),
    checkpoints.steps(directory.checkpoints),
  )
  if every < 1:
    raise ConfigError(f"--every must be at least 1, got {every}")
  if first > last:
    raise ConfigError(
      f"--from must not exceed --to, got --from={first}, --to={last}"
    )
  if first < 0 or last > reached:
    raise ConfigError(
      f"--from and --to must lie in the run, which has steps 0 to {reached}, "
      f"got --from={first}, --to={last}"
    )
  before = [step for step in saved if step <= first]
  if not before:
    raise ConfigError(
      f"{directory.checkpoints} holds no checkpoint at or before step {first}: "
      "there is nothing to replay from"
    )
  verified = partial(checkpoints.verified_steps, directory.checkpoints)
  start = next(verified(reversed(before)), None)
  if start is None:
    raise ConfigError(
      f"{directory.checkpoints} holds no undamaged checkpoint at or before "
      f"step {first}: there is nothing to replay from"
    )
  stop = min((step for step in saved if step >= last), default=last)
  checks = tuple(verified(step for step in saved if before[-1] < step <= stop))
  return ReplayPlan(first, last, every, start, stop, checks)


def replay(
  experiment: Experiment,
  directory: RunDirectory,
  plan: ReplayPlan,
  names: Sequence[str],
  *,
  should_stop: Callable[[], bool] = lambda: False,
  watch: Watcher = lambda progress: None,
) -> tuple[End, list[Comparison]]:
  """Trains again, measures and compares; each result is written at once.

  A replayed measurement is a function of the state alone, whatever was measured
  before it. It starts from its initial carry, so what compares with an earlier
  measurement (an overlap) is nan. What the run or an earlier replay has
  measured already is not measured again.

  Args:
    experiment: made from the run's own config.
    directory: the run, to whose zoomed.jsonl and eigenvectors/ is added.
    plan: from make_plan.
    names: of the measurements to make.
    should_stop: asked again and again; true ends the replay. A thread may then
      still be running, so end the process by os._exit.
    watch: called after every piece of work.

  Returns:
    How it ended, and a comparison for each checkpoint passed.

  Raises:
    FloatingPointError: where training or a product is no longer finite.
  """
  chosen = tuple(
    _from_initial_carry(each) for each in experiment.all_measurements
  )
  store = ReplayStore(directory, plan)
  schedule = ReplaySchedule(plan, store.not_yet_measured(names))
  end = run(
    experiment._replace(all_measurements=chosen),
    schedule,
    store,
    should_stop=should_stop,
    watch=watch,
  )
  return end, store.compared


class ReplaySchedule:
  """Measures at the steps of a plan, and stops at its checkpoints.

  Args:
    plan: from make_plan.
    due: names of the measurements to make, by step.
  """

  def __init__(self, plan: ReplayPlan, due: dict[int, set[str]]):
    self.last_step = plan.stop
    self._due, self._plan = due, plan
    self._stops = sorted({*plan.steps, *plan.checks, plan.stop})

  def is_due(
    self, measurement: Measurement, step: int, carries: Carries
  ) -> bool:
    return measurement.name in self._due.get(step, ())

  def checkpoint_is_due(self, step: int) -> bool:
    return step in self._plan.checks

  def next_stop(self, step: int, carries: Carries) -> int:
    return next(stop for stop in self._stops if stop > step)

  def checkpoints_left(self, step: int) -> int:
    return 0  # a replay saves none


class ReplayStore:
  """Records measurements in zoomed.jsonl; compares where a run would save.

  Args:
    directory: the run that is replayed.
    plan: from make_plan.
  """

  def __init__(self, directory: RunDirectory, plan: ReplayPlan):
    self.timing = Timing(directory)  # never saved
    self.compared: list[Comparison] = []
    self._directory, self._plan = directory, plan
    self._like: Snapshot | None = None

  def not_yet_measured(self, names: Sequence[str]) -> dict[int, set[str]]:
    """Measurements by step, without those that are recorded already."""
    paths = self._directory.history, self._directory.zoomed
    done = {
      (record["step"], record.get("measurement"))
      for path in paths
      for record in history.read(path)
    }
    return {
      step: {name for name in names if (step, name) not in done}
      for step in self._plan.steps
    }

  def open(
    self, experiment: Experiment, schedule: Schedule
  ) -> tuple[Snapshot, bool]:
    if self._directory.zoomed.exists():  # drops a line that a crash cut off
      history.truncate(self._directory.zoomed, last_step(self._directory))
    self._like = init_snapshot(experiment)
    return self._restore(self._plan.start), False

  def nulls(self, measurement: Measurement, arrays: PyTree) -> None:
    """Null values belong to the run, which has recorded them."""

  def measured(
    self, step: int, measurement: Measurement, arrays: PyTree
  ) -> dict[str, float]:
    plan, directory = self._plan, self._directory
    values, large = split_large(measurement, measurement.finish(arrays))
    if large:
      path = directory.root / measurement.name / "zoomed"
      write_arrays(path, step, large)
    if values:
      zoom = {"from": plan.first, "to": plan.last, "every": plan.every}
      history.append(
        directory.zoomed,
        step,
        "measurement",
        values,
        measurement=measurement.name,
        zoom=zoom,
      )
    return scalars(values)

  def trained(self, step: int, metrics: ChunkMetrics) -> dict[str, float]:
    bad = int(metrics.first_bad_step)
    if bad >= 0:
      raise FloatingPointError(
        f"non-finite loss, gradient or parameters at step {bad}"
      )
    return {}

  def save(self, snapshot: Snapshot) -> None:
    """Compares with the run's checkpoint of this step, if it has one."""
    step = snapshot.step
    if step not in self._plan.checks:
      return
    stored = self._restore(step).state
    compared = compare(step, snapshot.state, stored)
    self.compared.append(compared)
    finite = np.isfinite(compared.difference)
    history.append(
      self._directory.zoomed,
      step,
      "replay",
      {},
      start=self._plan.start,
      equal=compared.equal,
      largest_difference=compared.difference if finite else None,
    )

  def diverged(self, error: DivergedError) -> DivergedError:
    return error

  def _restore(self, step: int) -> Snapshot:
    return checkpoints.restore(self._directory.checkpoints, step, self._like)


def _from_initial_carry(measurement: Measurement) -> Measurement:
  """A measurement that starts from its initial carry every time."""

  def measure(inputs: Inputs) -> dict[str, PyTree]:
    carry = measurement.init_carry(inputs.state.params)
    return measurement.measure(inputs._replace(carry=carry))

  return measurement._replace(measure=measure)


def compare(step: int, replayed: TrainState, stored: TrainState) -> Comparison:
  """Two states, bit by bit: parameters, optimiser state, step and key."""
  worst, leaf, equal = 0.0, "", True
  pairs = zip(_leaves(replayed), _leaves(stored), strict=True)
  for (name, a), (_, b) in pairs:
    if a.tobytes() == b.tobytes():
      continue
    equal = False
    wide_a, wide_b = np.float64(a), np.float64(b)
    largest = max(np.abs(wide_b).max(), np.finfo(np.float32).tiny)
    # A nan counts as infinitely far away.
    difference = float(np.abs(wide_a - wide_b).max() / largest)
    difference = difference if np.isfinite(difference) else np.inf
    if not leaf or difference > worst:
      worst, leaf = difference, name
  return Comparison(step, equal, leaf, worst)


def _leaves(state: TrainState) -> list[tuple[str, np.ndarray]]:
  """Names and values of all leaves, the key as what it is made of."""
  plain = jax.device_get(key_data(state))
  leaves, _ = jax.tree_util.tree_flatten_with_path(plain)
  return [
    (jax.tree_util.keystr(path, simple=True, separator="."), np.asarray(leaf))
    for path, leaf in leaves
  ]
