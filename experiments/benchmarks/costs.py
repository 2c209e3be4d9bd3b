"""What a product costs in gradients, and what Lanczos adds."""

import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import optax
from problem import K, Problem
from solvers import make_ours, prepare_hessian

from induction_jax import spectra
from induction_jax.types import Params, PyTree

LOOP = 10  # gradients or products timed as one program


class Costs(NamedTuple):
  """Medians over the repetitions of ratios within each."""

  hvp_over_gradient: float  # linear map built once, over plain jax.grad
  hvp_over_gradient_streamed: float  # in four micro-batches, both
  lanczos_overhead: float  # share of a measurement that is not products
  gradient_seconds: float
  product_seconds: float
  products: int


def measure_costs(problem: Problem, repeats: int) -> Costs:
  """Times gradients, products and a whole measurement, interleaved.

  A gradient is timed as a step of descent and a product as a step of power
  iteration, LOOP of them in one program, so that neither pays for dispatch and
  nothing can be hoisted out.
  """
  parts = problem.split(len(problem.counts) // 4)
  params = problem.params
  prepare = prepare_hessian(problem)
  streamed = spectra.hessian(problem.loss, params, parts)
  hessian = prepare()
  descend = _descend(lambda p: jax.grad(problem.loss)(p, problem.batch))
  descend_parts = _descend(lambda p: spectra.gradient(problem.loss, p, parts))
  spectrum = make_ours(problem, K)
  products = spectrum(0).products
  seconds = interleave(
    {
      "gradient": partial(descend, params),
      "product": partial(power, hessian, params, LOOP),
      "gradient_parts": partial(descend_parts, params),
      "product_parts": partial(power, streamed, params, LOOP),
      "measurement": partial(spectrum, 0),
      "prepare": prepare,
      "products": partial(power, hessian, params, products),
    },
    repeats,
  )

  def median(ratio: Callable[[Mapping[str, float]], float]) -> float:
    return statistics.median(map(ratio, seconds))

  return Costs(
    hvp_over_gradient=median(lambda s: s["product"] / s["gradient"]),
    hvp_over_gradient_streamed=median(
      lambda s: s["product_parts"] / s["gradient_parts"]
    ),
    lanczos_overhead=median(
      lambda s: 1 - (s["prepare"] + s["products"]) / s["measurement"]
    ),
    gradient_seconds=median(lambda s: s["gradient"] / LOOP),
    product_seconds=median(lambda s: s["product"] / LOOP),
    products=products,
  )


def interleave(
  functions: Mapping[str, Callable[[], Any]], repeats: int
) -> list[dict[str, float]]:
  """Seconds of each function in each round, after one round of warming up."""
  rounds = []
  for _ in range(repeats + 1):
    rounds.append({name: timed(f)[0] for name, f in functions.items()})
  return rounds[1:]


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
  start = time.perf_counter()
  result = jax.block_until_ready(function())
  return time.perf_counter() - start, result


def _descend(gradient: Callable[[Params], Params]) -> Callable:
  def step(_: int, params: Params) -> Params:
    grad = gradient(params)
    return jax.tree.map(lambda p, g: p - 1e-6 * g, params, grad)

  return jax.jit(lambda params: jax.lax.fori_loop(0, LOOP, step, params))


@jax.jit
def power(hessian: spectra.Operator, start: PyTree, steps: int) -> PyTree:
  """Power iteration: so many products, each in need of the one before."""

  def step(_: int, vector: PyTree) -> PyTree:
    scale = 1 / optax.tree.norm(vector)
    return hessian(jax.tree.map(lambda x: scale * x, vector))

  return jax.lax.fori_loop(0, steps, step, start)
