"""Where a run's measurements are written down as they are made."""

from typing import Any, Protocol

import numpy as np

from induction_jax.probes import Probe
from induction_jax.step import ChunkMetrics
from induction_jax.storage import checkpoints, history, vectors
from induction_jax.storage.run_directory import RunDirectory
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

  def begin(self, last_step: int) -> None:
    """Drops whatever is later than `last_step`."""

  def constants(self, probe: Probe, arrays: PyTree) -> None: ...

  def measured(
    self, step: int, probe: Probe, arrays: PyTree, kept: PyTree
  ) -> dict[str, float]:
    """Writes a measurement and what is kept of it; returns its scalars."""

  def trained(self, step: int, metrics: ChunkMetrics) -> dict[str, float]:
    """Writes the chunk of updates that ended at a step; returns its means."""

  def commit(self) -> None:
    """Forces all that was written to disk."""


class RunLedger:
  """The ledger of one run: its history, each line on disk as it is written.

  Args:
    run: the run's directory.
    sync: false leaves that to `commit`.
  """

  def __init__(self, run: RunDirectory, sync: bool = True):
    self._run, self._sync = run, sync

  def begin(self, last_step: int) -> None:
    history.truncate(self._run.history, last_step)

  def constants(self, probe: Probe, arrays: PyTree) -> None:
    values = probe.finish_constants(arrays)
    self._record(0, "constants", values, probe=probe.name)

  def measured(
    self, step: int, probe: Probe, arrays: PyTree, kept: PyTree
  ) -> dict[str, float]:
    values = probe.finish(arrays)
    if complaint := probe.complain(values):
      raise DivergedError(step, f"step {step}: {complaint}")
    self._record(step, "probe", values, probe=probe.name)
    if kept:
      vectors.write(self._run.eigenvectors, step, kept)
    return scalars(values)

  def trained(self, step: int, metrics: ChunkMetrics) -> dict[str, float]:
    bad = int(metrics.first_bad_step)
    if bad >= 0:
      saved = checkpoints.steps(self._run.checkpoints)
      raise DivergedError(
        bad,
        f"non-finite loss, gradient or parameters at step {bad}; the newest "
        f"checkpoint is at step {max(saved, default=None)}, from which this "
        "config diverges again: try a lower optim.learning_rate or an "
        "optim.clip_norm in a new --workdir",
      )
    train = {f"train_{k}": v for k, v in metrics.mean._asdict().items()}
    self._record(step, "train", train)
    return scalars(train)

  def commit(self) -> None:
    if not self._sync:
      history.force_to_disk(self._run.history)

  def _record(self, step: int, kind: str, values: Any, **extra: Any) -> None:
    path = self._run.history
    history.append(path, step, kind, values, sync=self._sync, **extra)


def scalars(values: dict[str, Any]) -> dict[str, float]:
  """Those of the values that are single numbers."""
  return {k: float(v) for k, v in values.items() if np.ndim(v) == 0}
