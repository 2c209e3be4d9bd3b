"""Extreme eigenpairs by the peers that run on PyTorch, used as documented."""

import functools
import sys
import warnings
from collections.abc import Callable
from unittest import mock

import numpy as np
import torch

from experiments.peers.jax_solvers import (
  Counted,
  Peer,
  Solver,
  make_arpack,
  smallest_order,
)
from experiments.peers.torch_network import make_twin
from experiments.shared.networks import (
  MAX_ORDER,
  TOLERANCE,
  Answer,
  K,
  Problem,
  Reference,
  relative_error,
)

# Power iteration stops when an eigenvalue changes little. These tolerances are
# tried until all ten eigenvalues are within TOLERANCE of the float64 answer.
POWER_TOLERANCES = (1e-3, 1e-4, 1e-5, 1e-6)
POWER_ITERATIONS = 300  # per eigenvalue; the default is 100


def curvlinops_operator(problem: Problem) -> Callable:
  """Makes the Hessian of curvlinops, without its tests of the data."""
  from curvlinops import HessianLinearOperator

  twin, criterion, data = make_twin(problem)
  params = list(twin.parameters())
  return lambda: HessianLinearOperator(
    twin, criterion, params, [data], check_deterministic=False
  )


def eigenthings_operator(problem: Problem) -> Callable:
  """Makes the Hessian of hessian-eigenthings."""
  from hessian_eigenthings import HessianOperator, supervised_loss

  twin, criterion, data = make_twin(problem)
  return lambda: HessianOperator(twin, [data], supervised_loss(criterion))


def pyhessian_operator(problem: Problem) -> Callable:
  """Makes the Hessian of PyHessian, which differentiates the loss at once."""
  from pyhessian import hessian

  twin, criterion, data = make_twin(problem)
  warnings.filterwarnings("ignore", "Using backward.* with create_graph")

  def make():
    twin.zero_grad()  # PyHessian adds to existing gradients
    return hessian(twin, criterion, data=data, cuda=False)

  return make


def make_curvlinops(problem: Problem) -> Peer:
  """ARPACK of scipy on the Hessian of curvlinops."""
  make_operator = curvlinops_operator(problem)
  return make_arpack(lambda: make_operator().to_scipy().matvec, problem.size)


def make_hessian_eigenthings(problem: Problem) -> Peer:
  """Lanczos of hessian-eigenthings, reorthogonalised for a tolerance."""
  from hessian_eigenthings import lanczos, lanczos_tridiagonal

  make_operator = eigenthings_operator(problem)

  def solver(which: str, **options) -> Solver:
    def solve(seed: int) -> Answer:
      found = lanczos(make_operator(), k=K, which=which, seed=seed, **options)
      return Answer(
        found.eigenvalues.numpy(), found.eigenvectors.numpy(), found.iterations
      )

    return solve

  @functools.cache
  def long_runs() -> list[tuple[np.ndarray, np.ndarray]]:
    starts = (torch.manual_seed(seed) for seed in range(3))
    runs = [
      lanczos_tridiagonal(
        make_operator(), torch.randn(problem.size, generator=g), MAX_ORDER
      )
      for g in starts
    ]
    return [(run.alphas.numpy(), run.betas.numpy()) for run in runs]

  def to_tolerance(which: str) -> Solver:
    k_top, k_bottom = (K, 0) if which == "LA" else (0, K)
    order = smallest_order(long_runs(), k_top, k_bottom)
    return solver(which, max_iter=order, tol=TOLERANCE, reorthogonalize=True)

  def make_both(_: Reference) -> Solver:
    top, bottom = to_tolerance("LA"), to_tolerance("SA")

    def both(seed: int) -> Answer:
      upper, lower = top(seed), bottom(seed)
      return Answer(
        values=np.concatenate([upper.values, lower.values]),
        vectors=np.concatenate([upper.vectors, lower.vectors]),
        products=upper.products + lower.products,
      )

    return both

  return Peer(
    defaults=solver("LM"),
    top=lambda _: to_tolerance("LA"),
    both=make_both,
    by_magnitude=(True, False),
  )


def make_pyhessian(problem: Problem) -> Peer:
  """Power iteration of PyHessian with deflation."""
  make_operator = pyhessian_operator(problem)
  module = sys.modules["pyhessian.hessian"]

  def solver(**options) -> Solver:
    def solve(seed: int) -> Answer:
      torch.manual_seed(seed)
      product = Counted(module.hessian_vector_product)
      with mock.patch.object(module, "hessian_vector_product", product):
        values, vectors = make_operator().eigenvalues(top_n=K, **options)
      vectors = [torch.cat([x.reshape(-1) for x in v]) for v in vectors]
      vectors = torch.stack(vectors).detach().numpy()
      return Answer(np.array(values), vectors, product.calls)

    return solve

  def make_top(reference: Reference) -> Solver:
    for tolerance in POWER_TOLERANCES:
      solve = solver(tol=tolerance, maxIter=POWER_ITERATIONS)
      found = solve(0)
      error = relative_error(found.values, reference.magnitude)
      print(
        f"pyhessian at tol={tolerance:g}: {found.products} products, "
        f"eigenvalues to {error:.1g}"
      )
      if error <= TOLERANCE or found.products == K * POWER_ITERATIONS:
        break
    return solve

  return Peer(solver(), make_top, both=None, by_magnitude=(True, True))
