"""Seconds that a run has taken, over all the times it was started."""

import time
from typing import Any

from induction_jax.storage.files import write_json
from induction_jax.storage.run_directory import (
  RunDirectory,
  read_cost,
)


class Timing:
  """Adds up the seconds of a run: altogether, training, and measuring.

  `first_step_seconds` is the time from the newest start to the end of its
  first chunk of training steps, compilation included.

  Args:
    run: the run, whose cost.json is read and written.
    started: time.perf_counter() at the start; now, by default.
  """

  def __init__(self, run: RunDirectory, started: float | None = None):
    self._path, self._has_trained = run.cost, False
    self._seconds = {
      "wall_seconds": 0.0,
      "train_seconds": 0.0,
      "measure_seconds": 0.0,
      "first_step_seconds": 0.0,
    }
    if run.cost.exists():
      self._seconds |= read_cost(run.cost)
    self._now = time.perf_counter() if started is None else started
    self._started = self._now - self._seconds["wall_seconds"]
    self.training = _Stopwatch(self._seconds, "train_seconds", self._trained)
    self.measuring = _Stopwatch(self._seconds, "measure_seconds", lambda: None)

  def save(self) -> None:
    self._seconds["wall_seconds"] = time.perf_counter() - self._started
    write_json(self._path, self._seconds)

  def _trained(self) -> None:
    if not self._has_trained:
      seconds = time.perf_counter() - self._now
      self._seconds["first_step_seconds"] = seconds
      self._has_trained = True


class _Stopwatch:
  """Adds the time inside a `with` block to one of the sums."""

  def __init__(self, seconds: dict[str, float], name: str, then: Any):
    self._seconds, self._name, self._then = seconds, name, then
    self._start = 0.0

  def __enter__(self) -> None:
    self._start = time.perf_counter()

  def __exit__(self, *_: Any) -> None:
    self._seconds[self._name] += time.perf_counter() - self._start
    self._then()
