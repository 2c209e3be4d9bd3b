r"""Extreme Hessian eigenvalues: this project against other libraries.

Question: how fast, how accurate and how large are Hessian products and extreme
eigenpairs here, beside PyHessian, curvlinops, hessian-eigenthings, matfree and
scipy's ARPACK?

  pip install -e ".[bench]"
  python -m experiments.peers.spectra --size quick --json quick.json

All solvers see the same weights and batch in float32 and take turns in one
process. Times are compared within a round. Peak memory is measured in a process
for each solver. Errors and residuals are against float64.

Prints: peak memory, the cost of a product in gradients, and a table of the
solvers. A peer that is missing or fails is named and is null in the file.
Takes: some 20 minutes for quick and hours for 1m on 2 CPU cores.
"""

import os
import statistics
import sys
from typing import Any, NamedTuple

import numpy as np

from experiments.peers.costs import (
  MODES,
  Costs,
  measure_costs,
  memory_growth,
  peak_memory,
)
from experiments.peers.jax_solvers import (
  PEERS,
  Peer,
  Solver,
  make_ours,
  make_peers,
)
from experiments.shared.networks import (
  SIZES,
  TOLERANCE,
  K,
  Problem,
  Reference,
  find_reference,
  make_problem,
  relative_error,
  relative_residual,
)
from experiments.shared.reporting import Table, make_parser, report
from experiments.shared.timing import Turn, median_ratio, race

# Peers whose speed and accuracy are in the figures of the result file.
COMPARED = ("pyhessian", "curvlinops", "hessian_eigenthings", "matfree")
SLOW = 60.0  # seconds of a first call, above which a solver has one round
COLUMNS = (
  ("solver", ""),
  ("task", ""),
  ("products", ".0f"),
  ("seconds", ".2f"),
  ("first call, s", ".2f"),
  ("time over ours", ".2f"),
  ("residual", ".1e"),
  ("eigenvalue error", ".1e"),
)

Name = tuple[str, str]  # of a solver, and of its task: top, both or defaults


class Runner(NamedTuple):
  solve: Solver
  exact: np.ndarray  # the eigenvalues that it should find, in float64


class Result(NamedTuple):
  """Medians over the rounds of one solver at one task."""

  products: float
  turn: Turn
  residual: float  # of the worst pair, relative
  error: float  # of the worst eigenvalue, relative


def main(argv: list[str] | None = None) -> None:
  parser = make_parser(__doc__)
  parser.add_argument("--size", choices=SIZES, default="quick")
  parser.add_argument("--rounds", type=int, default=5, help="default 5")
  options = parser.parse_args(argv)
  sys.stdout.reconfigure(line_buffering=True)
  tables, figures = compare(options.size, options.rounds)
  report(tables, options.json, figures)


def compare(size: str, rounds: int) -> tuple[dict[str, Table], dict[str, Any]]:
  """Measures everything; returns the table of solvers and the figures."""
  print(f"{size}, load before: {os.getloadavg()[0]:.1f}")
  # First, because a new process starts with the peak memory of this one.
  growth = print_memory(size)
  problem = make_problem(size)
  reference = find_reference(problem)
  print(f"{problem.size} parameters, {len(problem.counts)} sequences")
  print(f"top {K}: {reference.top.round(3)}\nbottom {K}: {reference.bottom}")
  costs = measure_costs(problem, rounds)
  print_costs(costs)
  runners = line_up(problem, make_peers(problem), reference)
  turns = race({n: r.solve for n, r in runners.items()}, rounds, SLOW)
  results = {
    name: summarise(turn, runners[name].exact, reference)
    for name, turn in turns.items()
  }
  print(f"load after: {os.getloadavg()[0]:.1f}")
  figures = {
    "hvp_over_gradient": costs.hvp_over_gradient,
    "hvp_over_gradient_streamed": costs.hvp_over_gradient_streamed,
    "lanczos_overhead": costs.lanczos_overhead,
    "products_over_arpack": products_over_arpack(results),
    "memory_growth_8x": growth,
    "speedup": {name: top_speedup(results, name) for name in COMPARED},
    "relative_error": {"ours": results["ours", "top"].error}
    | {name: default_error(results, name) for name in COMPARED},
  }
  return {"solvers": make_table(results)}, figures


def line_up(
  problem: Problem, peers: dict[str, Peer], reference: Reference
) -> dict[Name, Runner]:
  """Every solver at every task that it can do; failures are left out."""
  top, bottom = reference.top, reference.bottom
  ends = np.concatenate([top, bottom])
  runners = {
    ("ours", "top"): Runner(make_ours(problem, 0), top),
    ("ours", "both"): Runner(make_ours(problem), ends),
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
      except Exception as error:  # a peer may raise anything
        print(f"{name}, {task}: failed, {error!r}")
  return runners


def summarise(turn: Turn, exact: np.ndarray, reference: Reference) -> Result:
  answers = turn.results
  return Result(
    products=statistics.median(a.products for a in answers),
    turn=turn,
    residual=statistics.median(
      relative_residual(a, reference) for a in answers[:3]
    ),
    error=statistics.median(relative_error(a.values, exact) for a in answers),
  )


def speedup(theirs: Result, ours: Result) -> float:
  return median_ratio(theirs.turn.seconds, ours.turn.seconds)


def top_speedup(results: dict[Name, Result], name: str) -> float | None:
  """Their time over ours at the ten largest eigenvalues.

  PyHessian finds the largest in absolute value, for which our solver has to
  find both ends.
  """
  if (name, "top") not in results:
    return None
  ours = "both" if name == "pyhessian" else "top"
  return speedup(results[name, "top"], results["ours", ours])


def products_over_arpack(results: dict[Name, Result]) -> float | None:
  """Our products over ARPACK's at both ends, with its default basis."""
  if ("scipy", "both") not in results:
    return None
  return results["ours", "both"].products / results["scipy", "both"].products


def default_error(results: dict[Name, Result], name: str) -> float | None:
  result = results.get((name, "defaults"))
  return None if result is None else result.error


def print_memory(size: str) -> float:
  """Prints peaks; returns the growth of the streamed measurement."""
  growth = {}
  for mode in MODES:
    growth[mode], peaks = memory_growth(size, mode)
    text = ", ".join(
      f"{examples} sequences: {after - before:.0f} MB above {before:.0f} MB"
      for examples, (before, after) in peaks.items()
    )
    print(f"peak memory, {mode}: {text}; growth {growth[mode]:.2f}")
  for name in ("ours", *PEERS):
    try:
      before, after = peak_memory(size, name)
    except RuntimeError as error:
      print(f"peak memory, {name}: {error}")
      continue
    print(f"peak memory, {name}: {after - before:.0f} MB above {before:.0f} MB")
  return growth["streamed"]


def print_costs(costs: Costs) -> None:
  print(
    f"gradient {1e3 * costs.gradient_seconds:.1f} ms, "
    f"product {1e3 * costs.product_seconds:.1f} ms; "
    f"product over gradient: {costs.hvp_over_gradient:.2f} as a linear map, "
    f"{costs.hvp_over_gradient_streamed:.2f} streamed; "
    f"not products: {costs.lanczos_overhead:.1%} of a measurement "
    f"with {costs.products} products"
  )


def make_table(results: dict[Name, Result]) -> Table:
  """One row a solver and task; TOLERANCE is asked of all but the defaults."""
  print(f"relative residual asked: {TOLERANCE:g}")
  rows = []
  for (name, task), result in results.items():
    ours = results["ours", "top" if task == "defaults" else task]
    rows.append(
      [
        name,
        task,
        float(result.products),
        statistics.median(result.turn.seconds),
        result.turn.first_seconds,
        speedup(result, ours),
        result.residual,
        result.error,
      ]
    )
  return Table(*zip(*COLUMNS), rows)


if __name__ == "__main__":
  main()
