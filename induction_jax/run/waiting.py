"""Waiting for compiled programs in a way that a signal can interrupt.

Only the main thread handles signals, and only between two Python operations.
There may be none for minutes while a compiled program runs. So another thread
calls the program, and the main thread waits for it.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from functools import partial
from typing import Any

import jax

from induction_jax.types import PyTree

POLL_SECONDS = 0.05


class AbandonedError(Exception):
  """A program was not waited for; its thread may still be running."""


def interruptible(
  function: Callable[..., PyTree], should_stop: Callable[[], bool]
) -> Callable[..., PyTree]:
  """Wraps a function so that waiting for its result can be given up.

  A thread cannot be stopped. The function must therefore be pure, and after an
  AbandonedError the process must end by os._exit, which waits for no thread.

  Args:
    function: a pure function that returns arrays.
    should_stop: asked again and again while the result is computed. If it
      returns true, the wrapped function raises AbandonedError.
  """

  def call_and_wait(*arguments: Any) -> PyTree:
    result: Future = Future()
    work = partial(_compute, function, arguments, result)
    threading.Thread(target=work, daemon=True).start()
    while not wait([result], POLL_SECONDS).done:
      if should_stop():
        raise AbandonedError
    return result.result()

  return call_and_wait


def _compute(
  function: Callable[..., PyTree], arguments: tuple[Any, ...], result: Future
) -> None:
  try:
    result.set_result(jax.block_until_ready(function(*arguments)))
  except BaseException as error:  # raised again by the thread that waits
    result.set_exception(error)
