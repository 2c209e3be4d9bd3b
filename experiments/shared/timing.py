"""Timing functions in turn, so that a busy machine slows all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
  """Seconds until the result is ready, and the result."""
  start = time.perf_counter()
  result = jax.block_until_ready(function())
  return time.perf_counter() - start, result


def time_in_turn(
  functions: Mapping[str, Callable[[], Any]], rounds: int
) -> dict[str, list[float]]:
  """Seconds of each function, one call a round."""
  seconds: dict[str, list[float]] = {name: [] for name in functions}
  for _ in range(rounds):
    for name, function in functions.items():
      seconds[name].append(timed(function)[0])
  return seconds


def median_ratio(a: Sequence[float], b: Sequence[float]) -> float:
  """The median over rounds of a / b within a round."""
  return statistics.median(x / y for x, y in zip(a, b))


class Turn(NamedTuple):
  """Calls of one function: seconds of the first call and of each round."""

  first_seconds: float
  seconds: list[float]
  results: list[Any]


def race(
  functions: Mapping[Any, Callable[[int], Any]], rounds: int, slow: float
) -> dict[Any, Turn]:
  """Calls every function of a seed once, and then once a round.

  A function that fails in its first call is reported and left out. One that
  takes longer than `slow` seconds has a single round.
  """
  turns: dict[Any, Turn] = {}
  for name, function in functions.items():
    try:
      first = timed(partial(function, 0))[0]
    except Exception as error:  # a peer may raise anything
      print(f"{name}: failed, {error!r}")
      continue
    print(f"{name}: first call {first:.1f} s")
    turns[name] = Turn(first, [], [])
  for seed in range(rounds):
    for name, turn in turns.items():
      if seed == 0 or turn.first_seconds < slow:
        seconds, result = timed(partial(functions[name], seed))
        turn.seconds.append(seconds)
        turn.results.append(result)
  return turns
