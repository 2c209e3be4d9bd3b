"""Where a run stands: what a checkpoint holds, saved and gone on from."""

from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from induction_jax.config import Config, ConfigError
from induction_jax.devices import processes
from induction_jax.measurements.alarm import ALARM
from induction_jax.run.experiment import Experiment
from induction_jax.run.log import Ledger
from induction_jax.run.schedule import checkpoints_left
from induction_jax.run.timing import Cost
from induction_jax.storage import checkpoints
from induction_jax.storage.run_directory import RunDirectory
from induction_jax.training.state import TrainState
from induction_jax.training.step import ChunkMetrics, no_updates
from induction_jax.transition import trigger
from induction_jax.types import PyTree


class Snapshot(NamedTuple):
  """What a checkpoint holds: all that a run goes on from as if never stopped.

  Attributes:
    state: the training state.
    updates: sums over the updates that no record is of yet. Without any,
      everything due at this step has been recorded.
    carries: each probe's carry by its name; among them the online trigger's,
      if there is one.
  """

  state: TrainState
  updates: ChunkMetrics
  carries: dict[str, PyTree]

  @property
  def step(self) -> int:
    """Of many runs, that of those which still train."""
    return int(np.max(processes.fetch(self.state.step)))

  @property
  def recorded(self) -> bool:
    return not np.any(processes.fetch(self.updates.steps))


def init_snapshot(experiment: Experiment) -> Snapshot:
  """A run at step 0."""
  state = experiment.init()
  carries = {
    probe.name: probe.init_carry(state.params) for probe in experiment.probes
  }
  if experiment.config.spectra.adaptive:
    carries[ALARM.name] = jax.device_put(trigger.init_trigger())
  return Snapshot(state, no_updates(state.step), carries)


def load_or_init(
  experiment: Experiment, directory: RunDirectory, ledger: Ledger | None = None
) -> tuple[Snapshot, bool]:
  """The newest good checkpoint's snapshot, or the one at step 0; and which.

  Args:
    experiment: what the run is of.
    directory: where it lives.
    ledger: of who goes on with the run, and so moves damaged checkpoints out
      of the way and passes over those whose records are no longer there.

  Raises:
    ConfigError: if there are checkpoints and none is good, unless for who goes
      on, and knows whether there is something to lose.
  """
  snapshot = init_snapshot(experiment)
  saved = checkpoints.steps(directory.checkpoints)
  found = checkpoints.restore_newest(
    directory.checkpoints,
    snapshot,
    set_aside=ledger is not None,
    complain=partial(_compare_records, ledger),
  )
  if found is None and saved and not ledger:
    raise ConfigError(f"{directory.checkpoints}: no checkpoint can be trusted")
  return (snapshot, False) if found is None else (found, True)


def load_together(
  experiment: Experiment, directory: RunDirectory, ledger: Ledger
) -> tuple[Snapshot, bool]:
  """The same for whoever goes on with the run, in one process or several.

  The first process reads, and sends the others what it has found.
  """
  if processes.is_single():
    return load_or_init(experiment, directory, ledger)
  first = init_snapshot(experiment)
  like = processes.gather(first)
  found = processes.on_first_process(
    lambda: checkpoints.restore_newest(
      directory.checkpoints,
      like,
      set_aside=True,
      complain=partial(_compare_records, ledger),
    )
  )
  resumed = bool(processes.broadcast(found is not None))
  if not resumed:
    return first, False
  return processes.place_like(
    first, processes.broadcast_keys_too(found or like)
  ), True


def check_start(
  directory: RunDirectory,
  step: int,
  resumed: bool,
  size: int,
  ledger: Ledger,
  config: Config,
) -> None:
  """Refuses to begin again over a history, or where nothing can be saved.

  Args:
    directory: where the run lives.
    step: at which it begins.
    resumed: whether from a checkpoint.
    size: bytes of a checkpoint.
    ledger: of what has been measured.
    config: the run's.

  Raises:
    ConfigError: if there is a history and no checkpoint to go on from.
    OSError: if the disk has no room for the checkpoints left, or gives back
      something else than is written to it.
  """
  if not resumed and ledger.reached() > 0:
    raise ConfigError(
      f"{directory.root} has a history up to step {ledger.reached()} and no "
      "checkpoint that can be trusted, so it cannot go on: choose another "
      "directory"
    )
  if step < config.train.num_steps:
    checkpoints.check_disk(
      directory.checkpoints, size, checkpoints_left(step, config)
    )


def save_snapshot(
  directory: RunDirectory, snapshot: Snapshot, ledger: Ledger, cost: Cost
) -> None:
  """Saves a checkpoint, by the first process alone.

  What has been measured is on disk before it, and its mark goes with it, so
  that a history which has lost something is known.

  Raises:
    OSError: if it cannot be written; nothing of it is left.
  """
  step, recorded = snapshot.step, snapshot.recorded
  whole = processes.gather(snapshot)

  def save() -> None:
    ledger.commit()
    on_device = jax.device_put(whole)  # the trigger's carry is on the host
    records = ledger.mark(step, recorded)
    note = {"step": step, "recorded": bool(recorded), "records": records}
    checkpoints.save(directory.checkpoints, step, on_device, note)
    cost.save()

  processes.on_first_process(save)


def _compare_records(ledger: Ledger | None, note: Any) -> str:
  """What speaks against going on from a checkpoint: records that are gone."""
  match note:
    case {"step": int(step), "recorded": bool(recorded), "records": then}:
      if ledger and ledger.mark(step, recorded) != then:
        return "records before it are gone or have changed"
  return ""
