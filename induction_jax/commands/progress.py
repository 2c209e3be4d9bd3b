"""The progress of a run: a bar on a terminal, plain lines elsewhere."""

import sys
from typing import Protocol

from tqdm import tqdm

from induction_jax.devices import processes
from induction_jax.run.loop import Progress

LINES = 20  # about as many plain lines for a run
SHOWN = {
  "train_loss": "loss",
  "pattern_accuracy": "pattern accuracy",
  "spectral_norm": "spectral norm",
}


class Watcher(Protocol):
  """Shows how far a run has come."""

  def update(self, progress: Progress) -> None: ...

  def close(self) -> None: ...


def make_watcher(num_steps: int) -> Watcher:
  """A bar if standard error is a terminal, else lines on standard output."""
  if sys.stderr.isatty() and processes.is_first():
    return _Bar(num_steps)
  return _Lines(num_steps)


class _Bar:
  def __init__(self, num_steps: int):
    self._bar = tqdm(total=num_steps, unit="step", dynamic_ncols=True)

  def update(self, progress: Progress) -> None:
    self._bar.n = progress.step
    self._bar.set_postfix_str(_describe(progress))

  def close(self) -> None:
    self._bar.close()


class _Lines:
  def __init__(self, num_steps: int):
    self._every = max(1, num_steps // LINES)
    self._next = 0

  def update(self, progress: Progress) -> None:
    if progress.step >= self._next:
      print(f"step {progress.step}  {_describe(progress)}", flush=True)
      self._next = (progress.step // self._every + 1) * self._every

  def close(self) -> None:
    pass


def _describe(progress: Progress) -> str:
  return "  ".join(
    f"{label} {progress.values[name]:.3g}"
    for name, label in SHOWN.items()
    if name in progress.values
  )
