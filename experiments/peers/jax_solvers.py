"""Extreme eigenpairs by induction_jax.spectra, and by peers that run on JAX.

A Solver takes the seed of its random start. A peer that leaves the number of
products to the user is given the smallest number that reaches TOLERANCE, the
median over three starts. The search for it is not counted.
"""

import functools
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.linalg import eigh_tridiagonal
from scipy.sparse.linalg import LinearOperator, eigsh

from experiments.shared.networks import (
  MAX_ORDER,
  TOLERANCE,
  Answer,
  K,
  Problem,
  Reference,
  find_ends,
  flatten_vectors,
)
from induction_jax import spectra

# By name: distribution, module and function that make a peer.
_TORCH = "experiments.peers.torch_solvers"
PEERS = {
  "pyhessian": ("pyhessian", _TORCH, "make_pyhessian"),
  "curvlinops": ("curvlinops-for-pytorch", _TORCH, "make_curvlinops"),
  "hessian_eigenthings": (
    "hessian-eigenthings",
    _TORCH,
    "make_hessian_eigenthings",
  ),
  "matfree": ("matfree", __name__, "make_matfree"),
  "scipy": ("scipy", __name__, "make_scipy"),
}

Solver = Callable[[int], Answer]
# The search for a peer's settings may compare with the exact answer.
MakeSolver = Callable[[Reference], Solver]


class Peer(NamedTuple):
  """The tasks of a peer.

  Attributes:
    defaults: finds the ten largest with the peer's default settings.
    top: makes a solver for the ten largest to TOLERANCE.
    both: makes a solver for the ten largest and the ten smallest to TOLERANCE,
      None if the peer has none.
    by_magnitude: for `defaults` and for `top`, whether "largest" means largest
      in absolute value.
  """

  defaults: Solver
  top: MakeSolver
  both: MakeSolver | None
  by_magnitude: tuple[bool, bool] = (False, False)


def make_peer(name: str, problem: Problem) -> Peer:
  """Makes one of PEERS; ImportError if it or PyTorch is not installed."""
  _, module, function = PEERS[name]
  return getattr(import_module(module), function)(problem)


def make_peers(problem: Problem) -> dict[str, Peer]:
  """Makes the installed peers and prints a message for each missing one."""
  peers = {}
  for name, (distribution, *_) in PEERS.items():
    try:
      peers[name] = make_peer(name, problem)
      print(f"{name}: {distribution} {version(distribution)}")
    except (ImportError, PackageNotFoundError) as error:
      print(f"{name}: skipped, {error}")
  return peers


def prepare_hessian(problem: Problem) -> Callable[[], spectra.Operator]:
  """Builds the linear map in a program of its own, as input for another."""
  prepare = jax.jit(
    lambda params: spectra.linearize(
      spectra.hessian(problem.loss, params, problem.split()), params
    )
  )
  return lambda: prepare(problem.params)


def make_ours(problem: Problem, k_bottom: int = K) -> Solver:
  """A complete measurement: the linear map is built, then Lanczos runs."""
  prepare = prepare_hessian(problem)

  @jax.jit
  def measure(hessian: spectra.Operator, seed: jax.Array) -> spectra.Spectrum:
    key = jax.random.key(seed)
    return find_ends(hessian, problem.params, key, k_bottom=k_bottom)

  def solve(seed: int) -> Answer:
    spectrum = jax.device_get(measure(prepare(), jnp.int32(seed)))
    ends = spectrum.top, spectrum.bottom
    return Answer(
      values=np.concatenate([end.values for end in ends]),
      vectors=np.concatenate([flatten_vectors(end.vectors) for end in ends]),
      products=int(spectrum.products),
    )

  return solve


def make_scipy(problem: Problem) -> Peer:
  """ARPACK on the float32 product of this project."""
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
  """Lanczos of matfree on the linear map that our solver uses."""
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
    defaults=solver(2 * K, 0),  # matfree has no default number of products
    top=lambda _: to_tolerance(0),
    both=lambda _: to_tolerance(K),
  )


def smallest_order(
  long_runs: list[tuple[np.ndarray, np.ndarray]], k_top: int, k_bottom: int
) -> int:
  """The fewest products that find the wanted pairs, median over the runs.

  The tridiagonal matrix of order m is the leading block of one of a higher
  order, and the residual of its pair (theta, s) is off_diagonal[m - 1] |s_m|.

  Args:
    long_runs: diagonal [M] and off-diagonal [M - 1] of Lanczos from each
      start.
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
