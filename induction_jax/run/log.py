"""Writes down a run's measurements as they are made."""

import hashlib
import json
from typing import Any

import numpy as np

from induction_jax.devices import processes
from induction_jax.measurements import Measurement
from induction_jax.storage import checkpoints, history
from induction_jax.storage.environment import describe_environment
from induction_jax.storage.files import (
  force_to_disk,
  read_object,
  write_json,
)
from induction_jax.storage.run_directory import RunDirectory
from induction_jax.storage.tensors import (
  count_arrays,
  write_arrays,
)
from induction_jax.training.step import ChunkMetrics
from induction_jax.types import PyTree


class DivergedError(FloatingPointError):
  """A number is no longer finite, so the run cannot continue.

  Attributes:
    step: the first step at which something is not finite.
    last_good: the snapshot just before, if it is later than the last complete
      one.
  """

  def __init__(self, step: int, message: str):
    super().__init__(message)
    self.step = step
    self.last_good: Any = None


class RunLog:
  """The log of one run: its history, eigenvectors, and diverged.json.

  If several processes share the run, the first one writes. The others check the
  values, so that all of them notice a divergence.

  Args:
    run: the run's directory.
    sync: whether each record is forced to disk as it is written; if not,
      `commit` does that.
  """

  def __init__(self, run: RunDirectory, sync: bool = True):
    self._run, self._sync = run, sync
    self._writes = processes.is_first()

  def last_step(self) -> int:
    """The last step with a record; 0 if there is none."""
    records = history.read(self._run.history)
    return max((record["step"] for record in records), default=0)

  def begin(self, last_step: int) -> None:
    """Drops what was recorded after a step; -1 drops everything."""
    if not self._writes:
      return
    history.truncate(self._run.history, last_step)
    note = read_divergence(self._run)
    if note and note["noticed"] > last_step:
      self._run.diverged.unlink()

  def checksum(self, last_step: int) -> dict[str, Any]:
    """What was recorded up to a step, as JSON, to notice later losses."""
    run = self._run
    return {
      "history": history.checksum(run.history, last_step),
      "eigenvectors": count_arrays(run.eigenvectors, last_step + 1),
    }

  def nulls(self, measurement: Measurement, arrays: PyTree) -> None:
    """Writes a measurement's null values.

    Raises:
      DivergedError: if they are not finite.
    """
    values = _finish(0, measurement, arrays)
    self._record(0, "constants", values, measurement=measurement.name)

  def measured(
    self, step: int, measurement: Measurement, arrays: PyTree
  ) -> dict[str, float]:
    """Writes a measurement; returns its scalars.

    Raises:
      DivergedError: if the values are not fit to continue with. They are not
        written.
    """
    values = _finish(step, measurement, arrays)
    values, large = split_large(measurement, values)
    if values:
      self._record(step, "measurement", values, measurement=measurement.name)
    if large and self._writes:
      write_arrays(self._run.root / measurement.name, step, large)
    return scalars(values)

  def trained(self, step: int, metrics: ChunkMetrics) -> dict[str, float]:
    """Writes the means over the chunk of updates that ended at a step.

    Raises:
      DivergedError: if an update of it was not finite. Nothing is written.
    """
    bad = int(metrics.first_bad_step)
    if bad >= 0:
      raise DivergedError(
        bad,
        f"non-finite loss, gradient or parameters at step {bad}: try a lower "
        "optim.learning_rate or an optim.clip_norm in a new --workdir",
      )
    train = {f"train_{k}": v for k, v in metrics.mean._asdict().items()}
    self._record(step, "train", train)
    return scalars(train)

  def commit(self) -> None:
    """Forces all records to disk."""
    if not self._sync and self._run.history.exists():
      force_to_disk(self._run.history)

  def diverged(self, noticed: int, error: DivergedError) -> None:
    """Writes diverged.json: what it takes to see the run fail again."""
    if not self._writes:
      return
    run = self._run
    saved = [s for s in checkpoints.steps(run.checkpoints) if s <= error.step]
    config = run.config.read_bytes() if run.config.exists() else b"{}"
    note = {
      "step": error.step,
      "noticed": noticed,
      "reason": str(error),
      "last_good_checkpoint": max(saved, default=None),
      "seed": json.loads(config).get("seed"),
      "config_sha256": hashlib.sha256(config).hexdigest(),
      "environment": describe_environment(),
    }
    write_json(run.diverged, note)

  def _record(self, step: int, kind: str, values: Any, **extra: Any) -> None:
    if self._writes:
      path = self._run.history
      if not path.exists():  # it was there when the run began
        raise OSError(f"{path} has gone")
      history.append(path, step, kind, values, sync=self._sync, **extra)


def _finish(
  step: int, measurement: Measurement, arrays: PyTree
) -> dict[str, np.ndarray]:
  try:
    return measurement.finish(arrays)
  except FloatingPointError as error:
    raise DivergedError(step, f"step {step}: {error}") from error


def read_divergence(run: RunDirectory) -> dict[str, Any] | None:
  """Reads diverged.json; None if the run has not diverged.

  Its entries: `step`, the first bad one; `noticed`, the step at which that was
  noticed; `reason`; `last_good_checkpoint`, from which the run fails again;
  `seed`, `config_sha256` and `environment`, with the command.

  Raises:
    ConfigError: if the file holds anything else.
  """
  if not run.diverged.exists():
    return None
  return read_object(run.diverged, step=int, noticed=int, reason=str)


def split_large(
  measurement: Measurement, values: dict[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
  """Separates values for the history from arrays for a file of their own.

  The latter are those that the measurement does not declare.
  """
  declared = {variable.name for variable in measurement.variables}
  small = {name: x for name, x in values.items() if name in declared}
  large = {name: x for name, x in values.items() if name not in declared}
  return small, large


def scalars(values: dict[str, Any]) -> dict[str, float]:
  """The values that are single numbers."""
  return {k: float(v) for k, v in values.items() if np.ndim(v) == 0}
