"""Estimators of the Hessian's trace and density, ours and the peers'."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from problem import TOLERANCE, K, Problem
from solvers import MAX_ORDER, prepare_hessian

from induction_jax import spectra

PROBES = 99  # products for a trace; Hutch++ takes thirds
DENSITY_PROBES, ORDER = 4, 40

Trace = Callable[[int], float]  # of a seed
# Nodes and weights [..., ORDER], of a seed.
Density = Callable[[int], tuple[np.ndarray, np.ndarray]]


def our_trace(problem: Problem) -> Trace:
  return _our_trace(problem, deflated=False)


def our_deflated_trace(problem: Problem) -> Trace:
  """With the eigenpairs of a measurement, which are not timed, at hand."""
  return _our_trace(problem, deflated=True)


def _our_trace(problem: Problem, deflated: bool) -> Trace:
  prepare = prepare_hessian(problem)
  spectrum = None
  if deflated:
    spectrum = jax.jit(
      lambda hessian: spectra.lanczos(
        hessian,
        problem.params,
        jax.random.key(0),
        k_top=K,
        k_bottom=K,
        max_order=MAX_ORDER,
        tolerance=TOLERANCE,
      )
    )(prepare())

  @jax.jit
  def estimate(hessian, seed, spectrum):
    return spectra.estimate_sizes(
      hessian,
      problem.params,
      jax.random.key(seed),
      probes=PROBES,
      deflate=spectrum,
    ).trace.value

  return lambda seed: float(estimate(prepare(), jnp.int32(seed), spectrum))


def our_density(problem: Problem) -> Density:
  prepare = prepare_hessian(problem)

  @jax.jit
  def estimate(hessian, seed):
    rules = spectra.quadrature(
      hessian,
      problem.params,
      jax.random.key(seed),
      order=ORDER,
      probes=DENSITY_PROBES,
    )
    return rules.nodes, rules.weights

  return lambda seed: jax.device_get(estimate(prepare(), jnp.int32(seed)))


def matfree_trace(problem: Problem) -> Trace:
  from matfree import stochtrace

  prepare = prepare_hessian(problem)
  like, unravel = ravel_pytree(problem.params)
  estimate = stochtrace.estimator_monte_carlo(
    stochtrace.monte_carlo_trace(),
    stochtrace.sampler_signs(like, num=PROBES),
  )

  @jax.jit
  def trace(hessian, seed):
    def product(vector):
      return ravel_pytree(hessian(unravel(vector)))[0]

    return estimate(product, jax.random.key(seed))

  return lambda seed: float(trace(prepare(), jnp.int32(seed)))


def matfree_density(problem: Problem) -> Density:
  from matfree import decomp

  prepare = prepare_hessian(problem)
  like, unravel = ravel_pytree(problem.params)
  tridiagonalise = decomp.tridiag_sym(ORDER)

  @jax.jit
  def rules(hessian, seed):
    def product(vector):
      return ravel_pytree(hessian(unravel(vector)))[0]

    def rule(key):
      start = jax.random.rademacher(key, like.shape, like.dtype)
      nodes, vectors = jnp.linalg.eigh(tridiagonalise(product, start).J_small)
      return nodes, vectors[0] ** 2

    keys = jax.random.split(jax.random.key(seed), DENSITY_PROBES)
    return jax.lax.map(rule, keys)

  return lambda seed: jax.device_get(rules(prepare(), jnp.int32(seed)))
