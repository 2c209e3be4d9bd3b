"""Estimators of the Hessian's trace and density by the PyTorch peers."""

import numpy as np
import torch
from estimators import DENSITY_PROBES, ORDER, PROBES, Density, Trace
from problem import Problem
from torch_peers import (
  curvlinops_operator,
  eigenthings_operator,
  pyhessian_operator,
)


def pyhessian_trace(problem: Problem) -> Trace:
  make_operator = pyhessian_operator(problem)

  def trace(seed: int) -> float:
    torch.manual_seed(seed)
    # tol=0 keeps it from stopping once two running means agree.
    return float(np.mean(make_operator().trace(maxIter=PROBES, tol=0)))

  return trace


def pyhessian_density(problem: Problem) -> Density:
  make_operator = pyhessian_operator(problem)

  def density(seed: int) -> tuple[np.ndarray, np.ndarray]:
    torch.manual_seed(seed)
    found = make_operator().density(iter=ORDER, n_v=DENSITY_PROBES)
    return np.array(found[0]), np.array(found[1])

  return density


def curvlinops_trace(problem: Problem) -> Trace:
  from curvlinops import hutchinson_trace

  operator = curvlinops_operator(problem)()

  def trace(seed: int) -> float:
    torch.manual_seed(seed)
    return hutchinson_trace(operator, PROBES).item()

  return trace


def curvlinops_density(problem: Problem) -> Density:
  from curvlinops.papyan2020traces.spectrum import fast_lanczos

  operator = curvlinops_operator(problem)()

  def density(seed: int) -> tuple[np.ndarray, np.ndarray]:
    torch.manual_seed(seed)
    rules = [fast_lanczos(operator, ORDER) for _ in range(DENSITY_PROBES)]
    nodes, vectors = map(torch.stack, zip(*rules))
    return nodes.numpy(), vectors[:, 0].numpy() ** 2

  return density


def hessian_eigenthings_trace(problem: Problem) -> Trace:
  from hessian_eigenthings import trace

  operator = eigenthings_operator(problem)()
  return lambda seed: trace(operator, num_matvecs=PROBES, seed=seed).estimate


def hessian_eigenthings_density(problem: Problem) -> Density:
  from hessian_eigenthings import spectral_density

  operator = eigenthings_operator(problem)()

  def density(seed: int) -> tuple[np.ndarray, np.ndarray]:
    found = spectral_density(
      operator,
      num_runs=DENSITY_PROBES,
      lanczos_steps=ORDER,
      seed=DENSITY_PROBES * seed,
    )
    return found.raw_eigenvalues.numpy(), found.raw_weights.numpy()

  return density
