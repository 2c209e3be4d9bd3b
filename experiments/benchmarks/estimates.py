"""Trace and density: the same number of products for everyone.

A trace is given PROBES products, a density DENSITY_PROBES probes of ORDER
nodes. A density is judged by its moments: the first times P is the trace, the
second times P the squared Frobenius norm.
"""

import statistics
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
from estimators import DENSITY_PROBES, ORDER, PROBES
from problem import Problem, Reference

REFERENCE_PROBES = 200
# Modules and functions, imported where they are installed.
TRACES = {
  "ours": ("estimators", "our_trace"),
  "ours, deflated": ("estimators", "our_deflated_trace"),
  "pyhessian": ("torch_estimators", "pyhessian_trace"),
  "curvlinops": ("torch_estimators", "curvlinops_trace"),
  "hessian_eigenthings": ("torch_estimators", "hessian_eigenthings_trace"),
  "matfree": ("estimators", "matfree_trace"),
}
DENSITIES = {
  "ours": ("estimators", "our_density"),
  "pyhessian": ("torch_estimators", "pyhessian_density"),
  "curvlinops": ("torch_estimators", "curvlinops_density"),
  "hessian_eigenthings": ("torch_estimators", "hessian_eigenthings_density"),
  "matfree": ("estimators", "matfree_density"),
}


class Sizes(NamedTuple):
  """Of the Hessian, in float64, with standard errors."""

  trace: tuple[float, float]
  square_frobenius: tuple[float, float]


def find_sizes(problem: Problem, reference: Reference) -> Sizes:
  """REFERENCE_PROBES probes, orthogonal to both ends, which count exactly."""
  generator = np.random.default_rng(0)
  vectors = reference.vectors
  values = np.concatenate([reference.bottom, reference.top])
  samples = []
  for _ in range(REFERENCE_PROBES):
    probe = generator.choice([-1.0, 1.0], problem.size)
    probe -= (vectors @ probe) @ vectors
    product = reference.product(probe)
    samples.append((probe @ product, product @ product))
  means = np.mean(samples, axis=0)
  errors = np.std(samples, axis=0, ddof=1) / REFERENCE_PROBES**0.5
  known = values.sum(), (values**2).sum()
  return Sizes(*((m + k, e) for m, k, e in zip(means, known, errors)))


def compare_estimates(
  problem: Problem, reference: Reference, rounds: int
) -> None:
  """Prints both tables; a peer that is missing or fails is named."""
  sizes = find_sizes(problem, reference)
  (trace, trace_error), (square, square_error) = sizes
  print(
    f"\ntrace {trace:.4g} ± {trace_error:.2g}, {PROBES} products each\n\n"
    "| trace | seconds | error, root mean square |\n|---|---|---|"
  )
  for name, seconds, found in _run(TRACES, problem, rounds):
    error = np.sqrt(np.mean((np.array(found) - trace) ** 2))
    print(f"| {name} | {seconds:.2f} | {error:.3g} |")
  print(
    f"\nsquared Frobenius norm {square:.4g} ± {square_error:.2g}; "
    f"{DENSITY_PROBES} probes of {ORDER} products each\n\n"
    "| density | seconds | mass | trace, error | squared norm, error |\n"
    "|---|---|---|---|---|"
  )
  for name, seconds, found in _run(DENSITIES, problem, rounds):
    moments = np.array([_moments(*rules) for rules in found])  # [rounds, 3]
    off = problem.size * moments[:, 1:] - np.array([[trace, square]])
    errors = np.sqrt(np.mean(off**2, axis=0))
    print(
      f"| {name} | {seconds:.2f} | {moments[:, 0].mean():.5f} "
      f"| {errors[0]:.3g} | {errors[1]:.3g} |"
    )


def _moments(nodes: np.ndarray, weights: np.ndarray) -> list[float]:
  return [(weights * nodes**p).sum(axis=-1).mean() for p in range(3)]


def _run(
  table: dict[str, tuple[str, str]], problem: Problem, rounds: int
) -> list[tuple[str, float, list[Any]]]:
  """Name, median seconds and what was found, one seed a round."""
  estimates: dict[str, Callable[[int], Any]] = {}
  for name, (module, function) in table.items():
    try:
      estimate = getattr(import_module(module), function)(problem)
      estimate(0)
      estimates[name] = estimate
    except Exception as error:  # whatever a peer raises is its result
      print(f"| {name} | failed: {str(error).splitlines()[0]} |")
  seconds: dict[str, list[float]] = {name: [] for name in estimates}
  found: dict[str, list[Any]] = {name: [] for name in estimates}
  for seed in range(rounds):
    for name, estimate in estimates.items():
      start = time.perf_counter()
      found[name].append(estimate(seed))
      seconds[name].append(time.perf_counter() - start)
  return [
    (name, statistics.median(seconds[name]), found[name]) for name in estimates
  ]
