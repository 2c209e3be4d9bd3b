"""Snapshots: everything that a run needs in order to continue."""

from typing import NamedTuple

import numpy as np

from induction_jax.config import ConfigError
from induction_jax.devices import processes
from induction_jax.run.experiment import Experiment
from induction_jax.storage import checkpoints
from induction_jax.storage.run_directory import RunDirectory
from induction_jax.training.state import TrainState
from induction_jax.types import PyTree


class Snapshot(NamedTuple):
  """A run in memory, at a step whose measurements are all recorded.

  A checkpoint is a snapshot on disk. If many seeds are trained together, every
  leaf has a leading axis [N].

  Attributes:
    state: the training state.
    carries: the carry of each measurement by its name.
  """

  state: TrainState
  carries: dict[str, PyTree]

  @property
  def step(self) -> int:
    """Updates done. If there are many seeds, by those that still train."""
    return int(np.max(processes.fetch(self.state.step)))


def init_snapshot(experiment: Experiment) -> Snapshot:
  """A run at step 0."""
  state = experiment.init()
  carries = {
    measurement.name: measurement.init_carry(state.params)
    for measurement in experiment.measurements
  }
  carries = {name: carry for name, carry in carries.items() if carry}
  return Snapshot(state, carries)


def load_newest(experiment: Experiment, run: RunDirectory) -> Snapshot:
  """The newest checkpoint that can be trusted, for commands that only read.

  A run without any checkpoint gives its snapshot at step 0.

  Raises:
    ConfigError: if there are checkpoints and none can be trusted.
  """
  like = init_snapshot(experiment)
  found = checkpoints.restore_newest(run.checkpoints, like, set_aside=False)
  if found is None and checkpoints.steps(run.checkpoints):
    raise ConfigError(f"{run.checkpoints}: no checkpoint can be trusted")
  return like if found is None else found
