"""Extreme eigenpairs by induction_jax.spectra, and by peers that run on JAX.

A Solver takes a seed for its random start. Where a peer leaves the number of
its products to the user, it gets the smallest that reaches TOLERANCE (median
over three starts), found beforehand at no cost to it.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from problem import TOLERANCE, Answer, K, Problem, Reference
from scipy.linalg import eigh_tridiagonal
from scipy.sparse.linalg import LinearOperator, eigsh

from induction_jax import spectra
from induction_jax.types import PyTree

MAX_ORDER = 240

Solver = Callable[[int], Answer]


# Finding a peer's setting may take a while, and the answer to compare with.
MakeSolver = Callable[[Reference], Solver]


class Peer(NamedTuple):
  """What a peer is asked for.

  Attributes:
    defaults: the ten largest with no setting touched.
    top: makes what finds the ten largest to TOLERANCE.
    both: the same for the ten largest and the ten smallest, None if it cannot.
    by_magnitude: of `defaults` and of `top`, whether its largest are the
      largest in absolute value.
  """

  defaults: Solver
  top: MakeSolver
  both: MakeSolver | None
  by_magnitude: tuple[bool, bool] = (False, False)


def prepare_hessian(problem: Problem) -> Callable[[], spectra.Operator]:
  """Builds the linear map in a program of its own, for another to take."""
  prepare = jax.jit(
    lambda params: spectra.linearized_hessian(
      problem.loss, params, problem.split()
    )
  )
  return lambda: prepare(problem.params)


def make_ours(
  problem: Problem, k_bottom: int, tolerance: float = TOLERANCE
) -> Solver:
  """A whole measurement: the linear map is built, then Lanczos runs."""
  prepare = prepare_hessian(problem)

  @jax.jit
  def measure(hessian: spectra.Operator, seed: jax.Array) -> spectra.Spectrum:
    return spectra.lanczos(
      hessian,
      problem.params,
      jax.random.key(seed),
      k_top=K,
      k_bottom=k_bottom,
      max_order=MAX_ORDER,
      tolerance=tolerance,
    )

  def solve(seed: int) -> Answer:
    spectrum = jax.device_get(measure(prepare(), jnp.int32(seed)))
    ends = spectrum.top, spectrum.bottom
    return Answer(
      values=np.concatenate([end.values for end in ends]),
      vectors=np.concatenate([flat(end.vectors) for end in ends]),
      products=int(spectrum.products),
    )

  return solve


def make_scipy(problem: Problem) -> Peer:
  """ARPACK on this project's own float32 product."""
  unravel = ravel_pytree(problem.params)[1]
  hessian = prepare_hessian(problem)()
  apply = jax.jit(lambda hessian, v: ravel_pytree(hessian(unravel(v)))[0])

  def product(vector: np.ndarray) -> np.ndarray:
    return np.asarray(apply(hessian, vector.reshape(-1)))

  return make_arpack(lambda: product, problem.size)


def make_arpack(make_product: Callable[[], Callable], size: int) -> Peer:
  """scipy.sparse.linalg.eigsh on a product of flat float32 vectors."""

  def solver(k: int, which: str, tolerance: float) -> Solver:
    def solve(seed: int) -> Answer:
      product = Counted(make_product())
      values, vectors = eigsh(
        LinearOperator((size, size), product, dtype=np.float32),
        k,
        which=which,
        tol=tolerance,
        v0=np.random.default_rng(seed).normal(size=size).astype(np.float32),
      )
      return Answer(values, vectors.T, product.calls)

    return solve

  return Peer(
    defaults=solver(K, "LA", 0.0),
    top=lambda _: solver(K, "LA", TOLERANCE),
    both=lambda _: solver(2 * K, "BE", TOLERANCE),
  )


def make_matfree(problem: Problem) -> Peer:
  """The Lanczos of matfree, on the same linear map as ours."""
  from matfree import decomp, eig

  prepare = prepare_hessian(problem)
  start, unravel = ravel_pytree(problem.params)

  def apply(vector: jax.Array, hessian: spectra.Operator) -> jax.Array:
    return ravel_pytree(hessian(unravel(vector)))[0]

  def solver(order: int, k_bottom: int) -> Solver:
    eigh = eig.eigh_partial(decomp.tridiag_sym(order))
    wanted = np.r_[order - K : order, 0:k_bottom]

    @jax.jit
    def measure(hessian: spectra.Operator, seed: jax.Array) -> tuple:
      key = jax.random.key(seed)
      vector = jax.random.normal(key, start.shape, start.dtype)
      values, vectors = eigh(apply, vector, hessian)
      return values[wanted], vectors[wanted]

    def solve(seed: int) -> Answer:
      found = measure(prepare(), jnp.int32(seed))
      return Answer(*jax.device_get(found), order)

    return solve

  def to_tolerance(k_bottom: int) -> Solver:
    return solver(smallest_order(long_runs(), K, k_bottom), k_bottom)

  @jax.jit
  def tridiagonal(hessian: spectra.Operator, seed: jax.Array) -> jax.Array:
    vector = jax.random.normal(jax.random.key(seed), start.shape, start.dtype)
    return decomp.tridiag_sym(MAX_ORDER)(apply, vector, hessian).J_small

  @functools.cache
  def long_runs() -> list[tuple[np.ndarray, np.ndarray]]:
    hessian = prepare()
    matrices = [np.asarray(tridiagonal(hessian, seed)) for seed in range(3)]
    return [(np.diag(t), np.diag(t, 1)) for t in matrices]

  return Peer(
    defaults=solver(2 * K, 0),  # it has no default number of products
    top=lambda _: to_tolerance(0),
    both=lambda _: to_tolerance(K),
  )


def smallest_order(
  long_runs: list[tuple[np.ndarray, np.ndarray]], k_top: int, k_bottom: int
) -> int:
  """The fewest products that find the wanted pairs, median over the runs.

  Lanczos of order m is the leading block of one of a higher order, and the
  residual of its pair (theta, s) is off_diagonal[m - 1] |s_m|.

  Args:
    long_runs: diagonal [M] and off-diagonal [M - 1] of Lanczos from each of
      several starts.
    k_top: pairs wanted at the upper end.
    k_bottom: pairs wanted at the lower end.

  Raises:
    ValueError: if M products do not reach TOLERANCE.
  """
  orders = [_smallest_order(*run, k_top, k_bottom) for run in long_runs]
  return int(np.median(orders))


def _smallest_order(
  diagonal: np.ndarray, off_diagonal: np.ndarray, k_top: int, k_bottom: int
) -> int:
  for order in range(k_top + k_bottom + 1, len(diagonal)):
    values, vectors = eigh_tridiagonal(
      diagonal[:order], off_diagonal[: order - 1]
    )
    residuals = off_diagonal[order - 1] * np.abs(vectors[-1])
    found = residuals <= TOLERANCE * np.abs(values)
    if found[:k_bottom].all() and found[order - k_top :].all():
      return order
  raise ValueError(f"{len(diagonal)} products do not reach {TOLERANCE}")


class Counted:
  """A function that counts its calls."""

  def __init__(self, function: Callable):
    self.function, self.calls = function, 0

  def __call__(self, *args):
    self.calls += 1
    return self.function(*args)


def flat(vectors: PyTree) -> np.ndarray:
  """Vectors with leaves [k, ...] as rows, [k, P]."""
  leaves = jax.tree.leaves(vectors)
  # Not reshape(k, -1): k is 0 at an end that nobody asked for.
  rows = [x.reshape(len(x), math.prod(x.shape[1:])) for x in leaves]
  return np.concatenate(rows, axis=1)
