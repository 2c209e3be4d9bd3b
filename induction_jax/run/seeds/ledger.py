"""The ledger of many seeds: to each run what is its own."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from induction_jax.devices import processes
from induction_jax.measurements import Probe
from induction_jax.run.log import DivergedError, RunLedger
from induction_jax.storage.run_directory import RunDirectory
from induction_jax.training.step import ChunkMetrics
from induction_jax.types import PyTree


class SeedsLedger:
  """Splits stacked measurements over the seeds' run directories.

  A seed that diverges is noted in its `diverged.json` and written down no
  further; the others go on. What is written is on disk from `commit` on: a
  power cut before it costs nothing that the next start would keep.

  Args:
    runs: the seeds' directories, in the order of the stack.

  Raises:
    DivergedError: from any method, once no seed is left.
  """

  def __init__(self, runs: Sequence[RunDirectory]):
    self._runs = runs
    self._ledgers = [RunLedger(run, sync=False) for run in runs]
    self._frozen = np.zeros(len(runs), bool)

  def reached(self) -> int:
    return max(ledger.reached() for ledger in self._ledgers)

  def begin(self, last_step: int, recorded: bool = True) -> None:
    for ledger in self._ledgers:
      ledger.begin(last_step, recorded)
    noted = [run.diverged.exists() for run in self._runs]
    self._frozen = np.array(processes.broadcast(np.array(noted)))

  def mark(self, last_step: int, recorded: bool = True) -> Any:
    return [ledger.mark(last_step, recorded) for ledger in self._ledgers]

  def constants(self, probe: Probe, arrays: PyTree) -> None:
    self._each(0, lambda ledger, x: ledger.constants(probe, x), arrays)

  def measured(
    self, step: int, probe: Probe, arrays: PyTree, kept: PyTree
  ) -> dict[str, float]:
    found = self._each(
      step,
      lambda ledger, x: ledger.measured(step, probe, *x),
      (arrays, kept),
    )
    return _medians(found)

  def trained(self, step: int, metrics: ChunkMetrics) -> dict[str, float]:
    found = self._each(step, lambda ledger, x: ledger.trained(step, x), metrics)
    return _medians(found)

  def commit(self) -> None:
    for ledger in self._ledgers:
      ledger.commit()

  def diverged(self, noticed: int, error: DivergedError) -> None:
    """Nothing: each seed has its note."""

  def _each(
    self, step: int, write: Callable[[RunLedger, PyTree], Any], stacked: PyTree
  ) -> list[Any]:
    """Writes each seed's part; returns what that gave, of those who go on."""
    found = []
    for i, ledger in enumerate(self._ledgers):
      if self._frozen[i]:
        continue
      try:
        found.append(write(ledger, take(stacked, i)))
      except DivergedError as error:
        ledger.diverged(step, error)
        self._frozen[i] = True
    if not found:
      raise DivergedError(step, f"step {step}: every seed has diverged")
    return found


def take(stacked: PyTree, i: int) -> PyTree:
  """One seed's part of what is stacked."""
  return jax.tree.map(lambda x: x[i], stacked)


def _medians(found: list[dict[str, float]]) -> dict[str, float]:
  names = found[0]
  return {
    name: float(np.nanmedian([values[name] for values in found]))
    for name in names
    if any(np.isfinite(values[name]) for values in found)
  }
