"""Signals: the first asks for a stop, the next one stops at once."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

from induction_jax.devices import processes


class Interrupt:
  """Turns SIGINT and SIGTERM into a request to save and stop.

  Attributes:
    signal: the signal that asked for a stop, or 0.
    last_words: printed before stopping at once: how to go on.
  """

  def __init__(self, last_words: str) -> None:
    self.signal = 0
    self.last_words = last_words
    self._patient = True

  def __enter__(self) -> "Interrupt":
    self._before = {
      number: signal.signal(number, self._note)
      for number in (signal.SIGINT, signal.SIGTERM)
    }
    return self

  def __exit__(self, *_: object) -> None:
    for number, handler in self._before.items():
      signal.signal(number, handler)

  @contextlib.contextmanager
  def at_once(self) -> Iterator[None]:
    """Within, no signal waits, nor one from before: all is saved."""
    self._patient = False
    if self.asked():
      self.leave("stopped")
    yield
    self._patient = True

  def asked(self) -> bool:
    """Whether a signal has asked for a stop, of this process or another."""
    self.signal = processes.max_over_processes(self.signal)
    return bool(self.signal)

  def leave(self, told: str) -> NoReturn:
    """Ends the process as the signal asked, once all is saved.

    A thread may be in a compiled program still (see induction_jax.run.waiting),
    which nothing ends but the process, and which an exit would wait for.
    """
    processes.disconnect()
    self._end(self.signal, told)

  def _note(self, number: int, _: FrameType | None) -> None:
    if self.signal or not self._patient:
      self._end(number, "\nstopped")
    self.signal = number
    print(
      "\nsaving and stopping; again to stop at once",
      file=sys.stderr,
      flush=True,
    )

  def _end(self, number: int, told: str) -> NoReturn:
    print(f"{told}; to go on:\n  {self.last_words}", flush=True)
    sys.stderr.flush()
    os._exit(128 + number)  # an exception would unwind through XLA
