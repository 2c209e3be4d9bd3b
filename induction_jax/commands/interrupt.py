"""Stopping on Ctrl-C (SIGINT) or SIGTERM without losing work."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

from induction_jax.devices import processes


class Interrupt:
  """Handles SIGINT and SIGTERM within a `with` statement.

  The first signal is noted: the run saves a checkpoint within seconds, even
  during a measurement, and exits. A second signal exits at once, and so does
  the first one where nothing needs to be saved (`at_once`). The exit status is
  128 plus the number of the signal, and the command that resumes the run is
  printed.

  Attributes:
    signal: number of the signal that asked for a stop, or 0.
    resume_command: the command that goes on with the run.
  """

  def __init__(self, resume_command: str) -> None:
    self.signal = 0
    self.resume_command = resume_command
    self._saves_first = True

  def __enter__(self) -> "Interrupt":
    self._before = {
      number: signal.signal(number, self._handle)
      for number in (signal.SIGINT, signal.SIGTERM)
    }
    return self

  def __exit__(self, *_: object) -> None:
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def asked(self) -> bool:
    """Whether a signal has reached this process or another one of the run."""
    self.signal = processes.max_over_processes(self.signal)
    return bool(self.signal)

  @contextlib.contextmanager
  def at_once(self) -> Iterator[None]:
    """Within, all is saved: a signal, also an earlier one, exits at once."""
    self._saves_first = False
    if self.asked():
      self.leave("stopped")
    yield
    self._saves_first = True

  def leave(self, message: str) -> NoReturn:
    """Exits with the status of the signal. Call it when all is saved.

    The process exits without waiting for its threads: one of them may be in a
    compiled program, which cannot be stopped (see induction_jax.run.waiting).
    """
    processes.disconnect()
    self._exit(self.signal, message)

  def _handle(self, number: int, _: FrameType | None) -> None:
    if self.signal or not self._saves_first:
      self._exit(number, "\nstopped")
    self.signal = number
    print(
      "\nsaving and stopping; again to stop at once",
      file=sys.stderr,
      flush=True,
    )

  def _exit(self, number: int, message: str) -> NoReturn:
    print(f"{message}; to go on:\n  {self.resume_command}", flush=True)
    sys.stderr.flush()
    os._exit(128 + number)  # an exception would unwind through XLA
