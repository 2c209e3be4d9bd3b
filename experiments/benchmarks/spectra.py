r"""The curvature engine against its peers, side by side in one run.

  pip install -e ".[bench]"
  python experiments/benchmarks/spectra.py --size quick --json quick.json

All on the same weights and batch, in float32, turn by turn in one process,
compared by ratios within a round, of which medians are printed; memory in a
process for each. Errors and residuals are against float64. A peer that is
missing or fails is named.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from costs import Costs, measure_costs
from estimates import compare_estimates
from memory import MODES, memory_growth, peak_memory
from peers import PEERS, make_peers
from problem import SIZES, TOLERANCE, K, find_reference, make_problem
from race import Name, Result, line_up, race, speedup

# The peers whose speed and accuracy are compared in the JSON file.
COMPARED = ("pyhessian", "curvlinops", "hessian_eigenthings", "matfree")


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--size", choices=SIZES, default="quick")
  parser.add_argument("--json", type=Path, help="where the figures go")
  parser.add_argument("--rounds", type=int, default=5, help="default 5")
  options = parser.parse_args()
  sys.stdout.reconfigure(line_buffering=True)  # a run takes minutes
  figures = compare(options.size, options.rounds)
  if options.json:
    options.json.write_text(json.dumps(figures, indent=2) + "\n")


def compare(size: str, rounds: int) -> dict[str, Any]:
  """Measures and prints everything; returns what --json writes."""
  print(f"{size}, load before: {os.getloadavg()[0]:.1f}")
  # First, while this process is small: a child starts with its parent's peak.
  growth = print_memory(size)
  problem = make_problem(size)
  reference = find_reference(problem)
  print(f"{problem.size} parameters, {len(problem.counts)} sequences")
  print(f"top {K}: {reference.top.round(3)}\nbottom {K}: {reference.bottom}")
  costs = measure_costs(problem, rounds)
  print_costs(costs)
  peers = make_peers(problem)
  runners = line_up(problem, peers, reference)
  results = race(runners, rounds, reference)
  print_results(results)
  compare_estimates(problem, reference, rounds)
  print(f"load after: {os.getloadavg()[0]:.1f}")
  return {
    "hvp_over_gradient": costs.hvp_over_gradient,
    "hvp_over_gradient_streamed": costs.hvp_over_gradient_streamed,
    "lanczos_overhead": costs.lanczos_overhead,
    "products_over_arpack": products_over_arpack(results),
    "memory_growth_8x": growth,
    "speedup": {name: top_speedup(results, name) for name in COMPARED},
    "relative_error": {"ours": results["ours", "top"].error}
    | {name: default_error(results, name) for name in COMPARED},
  }


def top_speedup(results: dict[Name, Result], name: str) -> float | None:
  """On the ten largest; where by magnitude, ours finds both ends for it."""
  if (name, "top") not in results:
    return None
  ours = "both" if name == "pyhessian" else "top"
  return speedup(results[name, "top"], results["ours", ours])


def products_over_arpack(results: dict[Name, Result]) -> float | None:
  """For both ends; ARPACK has its default basis, of 4 K + 1 vectors."""
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
    told = ", ".join(
      f"{examples} sequences: {after - before:.0f} MB above {before:.0f} MB"
      for examples, (before, after) in peaks.items()
    )
    print(f"peak memory, {mode}: {told}; growth {growth[mode]:.2f}")
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


def print_results(results: dict[Name, Result]) -> None:
  print(f"\nrelative residual {TOLERANCE:g} asked, but for the defaults\n")
  print(
    "| solver | task | products | seconds | first call, s | time over ours "
    "| residual | eigenvalue error |"
  )
  print("|---" * 8 + "|")
  for (name, task), r in results.items():
    ours = results["ours", "top" if task == "defaults" else task]
    print(
      f"| {name} | {task} | {r.products:.0f} | {r.median_seconds:.2f} "
      f"| {r.first_seconds:.2f} | {speedup(r, ours):.2f} "
      f"| {r.residual:.1e} | {r.error:.1e} |"
    )


if __name__ == "__main__":
  main()
