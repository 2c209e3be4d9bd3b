"""Where a run's measurements are written down as they are made."""

import hashlib
import json
from typing import Any, Protocol

import numpy as np

from induction_jax.devices import processes
from induction_jax.measurements import Probe
from induction_jax.storage import checkpoints, history
from induction_jax.storage.environment import describe_environment
from induction_jax.storage.files import (
  force_to_disk,
  read_object,
  write_json,
)
from induction_jax.storage.run_directory import RunDirectory
from induction_jax.storage.tensors import (
  count_eigenvectors,
  write_eigenvectors,
)
from induction_jax.training.step import ChunkMetrics
from induction_jax.types import PyTree


class DivergedError(FloatingPointError):
  """A run that cannot go on: what is no longer finite, and from which step."""

  def __init__(self, step: int, message: str):
    super().__init__(message)
    self.step = step


class Ledger(Protocol):
  """Where what was measured is written down.

  A measurement that a run cannot go on from is a DivergedError, and is not
  written.
  """

  def reached(self) -> int:
    """The last step with a record, 0 without any."""

  def begin(self, last_step: int, recorded: bool = True) -> None:
    """Drops what is later than a step, and unless `recorded` that step's."""

  def mark(self, last_step: int, recorded: bool = True) -> Any:
    """What `begin` would keep, told so that a loss can be seen later: JSON."""

  def constants(self, probe: Probe, arrays: PyTree) -> None: ...

  def measured(
    self, step: int, probe: Probe, arrays: PyTree, kept: PyTree
  ) -> dict[str, float]:
    """Writes a measurement and what is kept of it; returns its scalars."""

  def trained(self, step: int, metrics: ChunkMetrics) -> dict[str, float]:
    """Writes the chunk of updates that ended at a step; returns its means."""

  def commit(self) -> None:
    """Forces all that was written to disk."""

  def diverged(self, noticed: int, error: "DivergedError") -> None:
    """Notes what it takes to see a run that cannot go on fail again."""


class RunLedger:
  """The ledger of one run: its history, each line on disk as it is written.

  Of several processes the first writes; the others only see what is wrong.

  Args:
    run: the run's directory.
    sync: false leaves that to `commit`.
  """

  def __init__(self, run: RunDirectory, sync: bool = True):
    self._run, self._sync = run, sync
    self._writes = processes.is_first()

  def reached(self) -> int:
    records = history.read(self._run.history)
    return max((record["step"] for record in records), default=0)

  def begin(self, last_step: int, recorded: bool = True) -> None:
    if not self._writes:
      return
    history.truncate(self._run.history, last_step, recorded)
    if note := read_divergence(self._run):
      last = last_step if recorded else last_step - 1
      if note["noticed"] > last:
        self._run.diverged.unlink()

  def mark(self, last_step: int, recorded: bool = True) -> Any:
    run = self._run
    return {
      "history": history.checksum(run.history, last_step, recorded),
      "eigenvectors": count_eigenvectors(
        run.eigenvectors, last_step + recorded
      ),
    }

  def constants(self, probe: Probe, arrays: PyTree) -> None:
    values = probe.finish_constants(arrays)
    self._record(0, "constants", values, measurement=probe.name)

  def measured(
    self, step: int, probe: Probe, arrays: PyTree, kept: PyTree
  ) -> dict[str, float]:
    try:
      values = probe.finish(arrays)
    except FloatingPointError as error:
      raise DivergedError(step, f"step {step}: {error}") from error
    if complaint := probe.complain(values):
      raise DivergedError(step, f"step {step}: {complaint}")
    self._record(step, "measurement", values, measurement=probe.name)
    if kept and self._writes:
      write_eigenvectors(self._run.eigenvectors, step, kept)
    return scalars(values)

  def trained(self, step: int, metrics: ChunkMetrics) -> dict[str, float]:
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
    if not self._sync and self._run.history.exists():
      force_to_disk(self._run.history)

  def diverged(self, noticed: int, error: DivergedError) -> None:
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
      if not path.exists():  # since `begin`; it would be made without a head
        raise OSError(f"{path} has gone")
      history.append(path, step, kind, values, sync=self._sync, **extra)


def read_divergence(run: RunDirectory) -> dict[str, Any] | None:
  """The note of where a run stopped being finite; None if it did not.

  Its entries: `step`, the first bad one; `noticed`, the step it was noticed
  at; `reason`; `last_good_checkpoint`, from which the run fails again at once;
  `seed`, `config_sha256` and `environment`, of its command too.

  Raises:
    ConfigError: if it holds anything else.
  """
  if not run.diverged.exists():
    return None
  return read_object(run.diverged, step=int, noticed=int, reason=str)


def scalars(values: dict[str, Any]) -> dict[str, float]:
  """Those of the values that are single numbers."""
  return {k: float(v) for k, v in values.items() if np.ndim(v) == 0}
