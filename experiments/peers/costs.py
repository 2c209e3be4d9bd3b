"""What an HVP costs in gradients, what Lanczos adds, and peak memory."""

import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import optax

from experiments.peers.jax_solvers import (
  Solver,
  make_ours,
  make_peer,
  prepare_hessian,
)
from experiments.shared.device import peak_resident
from experiments.shared.networks import Problem, make_problem
from experiments.shared.reporting import ROOT
from experiments.shared.timing import time_in_turn
from induction_jax import spectra
from induction_jax.types import Params, PyTree

LOOP = 10  # gradients or products timed as one program
# Examples in a micro-batch: enough for activations to outweigh the compiler.
MICRO_BATCH = {"quick": 64, "1m": 16}
ORDER = 6  # of the Lanczos whose memory is measured
MODES = ("streamed", "resident")


class Costs(NamedTuple):
  """Medians over rounds of the ratios within a round."""

  hvp_over_gradient: float  # linear map built once, over plain jax.grad
  hvp_over_gradient_streamed: float  # both in four micro-batches
  lanczos_overhead: float  # share of a measurement that is not products
  gradient_seconds: float
  product_seconds: float
  products: int


def measure_costs(problem: Problem, rounds: int) -> Costs:
  """Times gradients, products and a complete measurement in turn.

  A gradient is timed as a step of descent and a product as a step of power
  iteration, LOOP of them in one program, so that neither pays for dispatch and
  the compiler cannot hoist anything out of the loop.
  """
  parts = problem.split(len(problem.counts) // 4)
  params = problem.params
  prepare = prepare_hessian(problem)
  streamed = spectra.hessian(problem.loss, params, parts)
  hessian = prepare()
  descend = _descend(lambda p: jax.grad(problem.loss)(p, problem.batch))
  descend_parts = _descend(lambda p: spectra.gradient(problem.loss, p, parts))
  measure = make_ours(problem)
  products = measure(0).products
  functions = {
    "gradient": partial(descend, params),
    "product": partial(power, hessian, params, LOOP),
    "gradient_parts": partial(descend_parts, params),
    "product_parts": partial(power, streamed, params, LOOP),
    "measurement": partial(measure, 0),
    "prepare": prepare,
    "products": partial(power, hessian, params, products),
  }
  time_in_turn(functions, 1)  # compiles
  seconds = time_in_turn(functions, rounds)

  def median(ratio: Callable[[dict[str, float]], float]) -> float:
    return statistics.median(
      ratio(dict(zip(seconds, one))) for one in zip(*seconds.values())
    )

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


def _descend(gradient: Callable[[Params], Params]) -> Callable:
  def step(_: int, params: Params) -> Params:
    grad = gradient(params)
    return jax.tree.map(lambda p, g: p - 1e-6 * g, params, grad)

  return jax.jit(lambda params: jax.lax.fori_loop(0, LOOP, step, params))


@jax.jit
def power(hessian: spectra.Operator, start: PyTree, steps: int) -> PyTree:
  """Power iteration: products that each depend on the one before."""

  def step(_: int, vector: PyTree) -> PyTree:
    scale = 1 / optax.tree.norm(vector)
    return hessian(jax.tree.map(lambda x: scale * x, vector))

  return jax.lax.fori_loop(0, steps, step, start)


def memory_growth(
  size: str, mode: str
) -> tuple[float, dict[int, tuple[float, float]]]:
  """Peak of a measurement on eight micro-batches over the peak on one.

  Both are above the same base, the smaller of the peaks before.

  Args:
    size: a key of SIZES.
    mode: "streamed" in micro-batches, or the complete batch "resident".

  Returns:
    The ratio, and by number of examples the peak before and after, in MB.
  """
  peaks = {
    examples: peak_memory(size, mode, examples)
    for examples in (MICRO_BATCH[size], 8 * MICRO_BATCH[size])
  }
  base = min(before for before, _ in peaks.values())
  one, eight = (after - base for _, after in peaks.values())
  return eight / one, peaks


def peak_memory(
  size: str, what: str, examples: int | None = None
) -> tuple[float, float]:
  """Peak resident memory before and after a measurement, in a new process.

  The difference is what the measurement adds to a process that has imported
  everything and holds the network and its batch. It includes the compiler. A
  process begins with the peak of the process that starts it, so this must be
  called before anything large is held.

  Args:
    size: a key of SIZES.
    what: one of MODES, or a solver ("ours", or a peer at its defaults).
    examples: in the Hessian's batch; by default those of the size.

  Returns:
    Both peaks in MB.

  Raises:
    RuntimeError: if the process fails, with its last line.
  """
  call = f"costs.print_peaks({size!r}, {what!r}, {examples!r})"
  command = [
    sys.executable,
    "-c",
    f"from experiments.peers import costs; {call}",
  ]
  process = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
  if process.returncode:
    status = f"exit status {process.returncode}"
    raise RuntimeError([status, *process.stderr.strip().splitlines()][-1])
  before, after = json.loads(process.stdout.splitlines()[-1])
  return before, after


def print_peaks(size: str, what: str, examples: int | None) -> None:
  """Prints the peak before and after a measurement as a JSON list."""
  problem = make_problem(size, examples, trained=False)
  if what in MODES:
    measure = _make_measurement(problem, what, MICRO_BATCH[size])
  elif what == "ours":
    measure = make_ours(problem)
  else:
    measure = make_peer(what, problem).defaults
  before = peak_resident()
  measure(0)
  print(json.dumps([before, peak_resident()]))


def _make_measurement(problem: Problem, mode: str, micro_batch: int) -> Solver:
  """Lanczos of a low order, so that its basis does not hide the rest."""
  streamed = mode == "streamed"
  data = problem.split(micro_batch if streamed else None)

  @jax.jit
  def prepare(params: PyTree) -> spectra.Operator:
    hessian = spectra.hessian(problem.loss, params, data)
    return hessian if streamed else spectra.linearize(hessian, params)

  @jax.jit
  def find(hessian: spectra.Operator, seed: int) -> spectra.Spectrum:
    return spectra.lanczos(
      hessian,
      problem.params,
      jax.random.key(seed),
      k_top=1,
      k_bottom=1,
      max_order=ORDER,
      tolerance=0.0,
    )

  return lambda seed: jax.device_get(find(prepare(problem.params), seed))
