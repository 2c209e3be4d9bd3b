"""What a run has cost, over all its starts."""

import time
from typing import Any

from induction_jax.storage.files import write_json
from induction_jax.storage.run_directory import (
  RunDirectory,
  read_cost,
)


class Cost:
  """Seconds a run took over all its starts: in all, training, measuring.

  And from the newest start to the end of its first chunk of training.

  Args:
    run: whose cost.json to add to.
    started: time.perf_counter() at the start; by default now.
  """

  def __init__(self, run: RunDirectory, started: float | None = None):
    self._path, self._has_stepped = run.cost, False
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
    self.training = _Stopwatch(self._seconds, "train_seconds")
    self.measuring = _Stopwatch(self._seconds, "measure_seconds")

  def stepped(self) -> None:
    """Told after every chunk of training; the first of this start counts."""
    if not self._has_stepped:
      seconds = time.perf_counter() - self._now
      self._seconds["first_step_seconds"] = seconds
      self._has_stepped = True

  def save(self) -> None:
    self._seconds["wall_seconds"] = time.perf_counter() - self._started
    write_json(self._path, self._seconds)


class _Stopwatch:
  """Adds the time inside a `with` block to an entry."""

  def __init__(self, seconds: dict[str, float], name: str):
    self._seconds, self._name, self._start = seconds, name, 0.0

  def __enter__(self) -> None:
    self._start = time.perf_counter()

  def __exit__(self, *_: Any) -> None:
    self._seconds[self._name] += time.perf_counter() - self._start
