"""Signals: the first asks for a stop, the next one stops at once."""

import os
import signal
import sys
from types import FrameType


class Interrupt:
  """Turns SIGINT and SIGTERM into a request to stop between chunks.

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

  def stop_at_once(self) -> None:
    """From here on no signal waits: nothing is left that needs saving."""
    self._patient = False

  def _note(self, number: int, _: FrameType | None) -> None:
    if self.signal or not self._patient:
      print(f"\nstopped; to go on:\n  {self.last_words}", flush=True)
      os._exit(128 + number)  # an exception would unwind through XLA
    self.signal = number
    print(
      "\nstopping after this chunk; again to stop at once",
      file=sys.stderr,
      flush=True,
    )
