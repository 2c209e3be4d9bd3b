"""Waiting for the device in a way that can be given up."""

import queue
import threading
from collections.abc import Callable
from typing import TypeVar

POLL_SECONDS = 0.05

Result = TypeVar("Result")


class AbandonedError(Exception):
  """Work that was not waited for; its thread may be at it still."""


def attend(work: Callable[[], Result], gives_up: Callable[[], bool]) -> Result:
  """What `work` returns or raises, unless `gives_up` comes first.

  The work is done by a thread, for only the main one handles signals, and
  only between two steps of Python, of which there may be none for minutes
  while it is in a compiled program. Work that is abandoned cannot be stopped:
  it must change nothing that matters, and the process must end by os._exit.

  Raises:
    AbandonedError: if it was given up.
  """
  done: queue.SimpleQueue = queue.SimpleQueue()

  def body() -> None:
    try:
      done.put((work(), None))
    except BaseException as error:  # to be raised where it is waited for
      done.put((None, error))

  threading.Thread(target=body, daemon=True).start()
  while True:
    try:
      result, error = done.get(timeout=POLL_SECONDS)
    except queue.Empty:
      if gives_up():
        raise AbandonedError from None
      continue
    if error is not None:
      raise error
    return result
