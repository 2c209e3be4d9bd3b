"""Where runs start from and where their results go, on disk."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from induction_jax.config import ConfigError
from induction_jax.devices import processes
from induction_jax.devices.processes import key_data, wrap_keys
from induction_jax.measurements import Measurement
from induction_jax.run.experiment import Experiment
from induction_jax.run.log import DivergedError, RunLog
from induction_jax.run.schedule import Schedule
from induction_jax.run.snapshots import Snapshot, init_snapshot
from induction_jax.run.timing import Timing
from induction_jax.storage import checkpoints
from induction_jax.storage.run_directory import RunDirectory
from induction_jax.training.step import ChunkMetrics
from induction_jax.types import PyTree

Scalars = dict[str, float]


class Store(Protocol):
  """What the loop needs of the place where results go."""

  timing: Timing

  def open(
    self, experiment: Experiment, schedule: Schedule
  ) -> tuple[Snapshot, bool]:
    """The snapshot to start from, and whether the run resumes there.

    If it resumes, everything at the snapshot's step is recorded already.
    """

  def nulls(self, measurement: Measurement, arrays: PyTree) -> None:
    """Records null values."""

  def measured(
    self, step: int, measurement: Measurement, arrays: PyTree
  ) -> Scalars:
    """Records a measurement; returns its scalars."""

  def trained(self, step: int, metrics: ChunkMetrics) -> Scalars:
    """Records a chunk of updates that ended at a step; returns its means."""

  def save(self, snapshot: Snapshot) -> None:
    """Saves a checkpoint, after everything that has been recorded."""

  def diverged(self, error: DivergedError) -> DivergedError:
    """Records that the run cannot continue; returns the error to raise."""


class RunStore:
  """The store of one run, or of many seeds that are trained together.

  If several processes share the run, the first one reads and writes; all of
  them call the same methods.

  Each seed has a run directory of its own. A seed that diverges is noted in its
  diverged.json and recorded no further, while the others continue.

  Args:
    runs: the directory of the run, or of each seed.
    timing: of the run, or of the seeds together.
    stacked: whether snapshots and arrays have a leading axis [N] of seeds.
  """

  def __init__(
    self, runs: Sequence[RunDirectory], timing: Timing, *, stacked: bool = False
  ):
    self.timing = timing
    self._runs, self._stacked = runs, stacked
    self._logs = [RunLog(run, sync=not stacked) for run in runs]
    self._diverged = np.zeros(len(runs), bool)

  def open(
    self, experiment: Experiment, schedule: Schedule
  ) -> tuple[Snapshot, bool]:
    """Restores the newest checkpoint that all runs have, or starts anew.

    A damaged checkpoint is passed over, and so is one if the history before it
    has lost records. What was recorded after the checkpoint is dropped.

    Raises:
      ConfigError: if there is a history and no checkpoint to resume from.
      OSError: if the disk has no room for the checkpoints to come.
    """
    snapshot = init_snapshot(experiment)
    like = processes.gather(snapshot)
    found = processes.on_first_process(lambda: self._restore(like))
    resumed = bool(processes.broadcast(found is not None))
    if resumed and not processes.is_single():
      arrays = processes.broadcast(found or like)
      found = processes.place_like(snapshot, arrays)
    snapshot = found or snapshot
    processes.on_first_process(
      lambda: self._check_start(snapshot, resumed, like, schedule)
    )
    self.begin(snapshot.step if resumed else -1)
    return snapshot, resumed

  def begin(self, last_step: int) -> None:
    """Drops what was recorded after a step; -1 drops everything."""
    for log in self._logs:
      log.begin(last_step)
    exist = np.array([run.diverged.exists() for run in self._runs])
    noted = processes.broadcast(exist)
    # If every run is noted as diverged, all of them are tried again, so that
    # the error is raised again.
    self._diverged = noted & ~noted.all()

  def nulls(self, measurement: Measurement, arrays: PyTree) -> None:
    self._each(0, lambda log, x: log.nulls(measurement, x), arrays)

  def measured(
    self, step: int, measurement: Measurement, arrays: PyTree
  ) -> Scalars:
    found = self._each(
      step, lambda log, x: log.measured(step, measurement, x), arrays
    )
    return _medians(found)

  def trained(self, step: int, metrics: ChunkMetrics) -> Scalars:
    found = self._each(step, lambda log, x: log.trained(step, x), metrics)
    return _medians(found)

  def save(self, snapshot: Snapshot) -> None:
    step, tree = snapshot.step, processes.gather(snapshot)

    def write() -> None:
      for run, log, part in zip(self._runs, self._logs, self._split(tree)):
        log.commit()
        # The checksum shows later whether the history has lost anything.
        note = {"step": step, "records": log.checksum(step)}
        checkpoints.save(run.checkpoints, step, part, note)
      self.timing.save()

    processes.on_first_process(write)

  def diverged(self, error: DivergedError) -> DivergedError:
    saved = []
    for run, log, noted in zip(self._runs, self._logs, self._diverged):
      if not noted:
        log.diverged(error.step, error)
      saved += checkpoints.steps(run.checkpoints)
    good = (
      f"the last good checkpoint is at step {max(saved)}, from which this "
      "config fails again"
      if saved
      else "no checkpoint was saved before it"
    )
    return DivergedError(error.step, f"{error}; {good}")

  def _restore(self, like: Snapshot) -> Snapshot | None:
    found = checkpoints.restore_newest_common(
      [run.checkpoints for run in self._runs],
      jax.tree.map(jnp.asarray, next(self._split(like))),
      set_aside=True,
      complain=self._objection,
    )
    if found is None or not self._stacked:
      return found[0] if found else None
    parts = (jax.tree.map(np.asarray, key_data(part)) for part in found)
    stacked = jax.tree.map(lambda *x: np.stack(x), *parts)
    return jax.tree.map(
      lambda x, y: jax.device_put(y, x.sharding if x.committed else None),
      like,
      wrap_keys(like, jax.tree.map(jnp.asarray, stacked)),
    )

  def _objection(self, i: int, note: Any) -> str:
    """Why run `i` cannot resume from a checkpoint; "" if it can."""
    match note:
      case {"recorded": False}:
        return "version 1 saved it between two measurements"
      case {"step": int(step), "records": before}:
        if self._logs[i].checksum(step) != before:
          return "records before it are gone or have changed"
    return ""

  def _check_start(
    self, snapshot: Snapshot, resumed: bool, like: Snapshot, schedule: Schedule
  ) -> None:
    for run, log in zip(self._runs, self._logs):
      if not resumed and (reached := log.last_step()) > 0:
        raise ConfigError(
          f"{run.root} has a history up to step {reached} and no checkpoint "
          "that can be trusted, so it cannot be resumed: choose another "
          "directory"
        )
    if snapshot.step < schedule.last_step:
      size = checkpoints.checkpoint_bytes(like)
      left = schedule.checkpoints_left(snapshot.step)
      checkpoints.check_disk(self._runs[0].checkpoints, size, left)

  def _split(self, tree: PyTree) -> Iterator[PyTree]:
    """Each run's part of a tree."""
    if not self._stacked:
      return iter([tree])
    on_host = jax.tree.map(np.asarray, key_data(tree))
    return (
      wrap_keys(tree, jax.tree.map(lambda x, i=i: x[i], on_host))
      for i in range(len(self._runs))
    )

  def _each(
    self, step: int, write: Callable[[RunLog, PyTree], Any], arrays: PyTree
  ) -> list[Any]:
    """Writes each run's part, and returns what that returned.

    Raises:
      DivergedError: if the last run that was left has diverged.
    """
    found = []
    parts = self._split(arrays)
    for i, (log, part) in enumerate(zip(self._logs, parts)):
      if self._diverged[i]:
        continue
      try:
        found.append(write(log, part))
      except DivergedError as error:
        if not found and self._diverged[i + 1 :].all():
          raise
        log.diverged(step, error)
        self._diverged[i] = True
    return found


def _medians(found: list[Scalars]) -> Scalars:
  return {
    name: float(np.nanmedian([values[name] for values in found]))
    for name in found[0]
    if any(np.isfinite(values[name]) for values in found)
  }
