"""Everyone finds the same eigenvalues, turn by turn, in one process."""

import statistics
import time
from typing import NamedTuple

import numpy as np
from problem import (
  Answer,
  K,
  Problem,
  Reference,
  relative_error,
  relative_residual,
)
from solvers import Peer, Solver, make_ours

SLOW = 60.0  # seconds

Name = tuple[str, str]  # of a solver, and of its task: top, both or defaults


class Runner(NamedTuple):
  solve: Solver
  exact: np.ndarray  # the eigenvalues it should find, in float64


class Result(NamedTuple):
  """What a runner did; medians over the rounds."""

  products: float
  first_seconds: float  # the first call, with any compilation
  seconds: list[float]  # by round
  residual: float  # of the worst pair, relative
  error: float  # of the worst eigenvalue, relative

  @property
  def median_seconds(self) -> float:
    return statistics.median(self.seconds)


def line_up(
  problem: Problem, peers: dict[str, Peer], reference: Reference
) -> dict[Name, Runner]:
  """Ours and each peer at each task it can do; one that fails is left out."""
  top, bottom = reference.top, reference.bottom
  ends = np.concatenate([top, bottom])
  runners = {
    ("ours", "top"): Runner(make_ours(problem, 0), top),
    ("ours", "both"): Runner(make_ours(problem, K), ends),
  }
  for name, peer in peers.items():
    defaults, largest = (
      reference.magnitude if by_magnitude else top
      for by_magnitude in peer.by_magnitude
    )
    runners[name, "defaults"] = Runner(peer.defaults, defaults)
    for task, make, exact in (
      ("top", peer.top, largest),
      ("both", peer.both, ends),
    ):
      if make is None:
        continue
      try:
        runners[name, task] = Runner(make(reference), exact)
      except Exception as error:  # whatever a peer raises is its result
        print(f"{name}, {task}: failed, {error!r}")
  return runners


def race(
  runners: dict[Name, Runner], rounds: int, reference: Reference
) -> dict[Name, Result]:
  """Runs everyone once for warming up, then once a round, seeds 0, 1, ...

  Whoever takes longer than SLOW has only the first round.
  """
  first: dict[Name, float] = {}
  for name, runner in runners.items():
    try:
      first[name] = _timed(runner.solve, 0)[0]
      print(f"{', '.join(name)}: first call {first[name]:.1f} s")
    except Exception as error:
      print(f"{', '.join(name)}: failed, {error!r}")
  turns: dict[Name, list[tuple[float, Answer]]] = {name: [] for name in first}
  for seed in range(rounds):
    for name in (n for n in first if seed == 0 or first[n] < SLOW):
      turns[name].append(_timed(runners[name].solve, seed))
  return {
    name: _result(first[name], turns[name], runners[name].exact, reference)
    for name in first
  }


def speedup(theirs: Result, ours: Result) -> float:
  """Their seconds over ours, median of the ratios within a round."""
  return statistics.median(a / b for a, b in zip(theirs.seconds, ours.seconds))


def _timed(solve: Solver, seed: int) -> tuple[float, Answer]:
  start = time.perf_counter()
  answer = solve(seed)  # on the host, so finished
  return time.perf_counter() - start, answer


def _result(
  first_seconds: float,
  turns: list[tuple[float, Answer]],
  exact: np.ndarray,
  reference: Reference,
) -> Result:
  seconds, answers = zip(*turns)
  return Result(
    products=statistics.median(a.products for a in answers),
    first_seconds=first_seconds,
    seconds=list(seconds),
    residual=statistics.median(
      relative_residual(a, reference) for a in answers[:3]
    ),
    error=statistics.median(relative_error(a.values, exact) for a in answers),
  )
