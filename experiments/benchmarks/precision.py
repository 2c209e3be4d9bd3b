"""What the precision of the Hessian's products does to its eigenvalues."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from problem import (
  TOLERANCE,
  Answer,
  K,
  Problem,
  find_reference,
  make_problem,
  relative_residual,
)
from solvers import MAX_ORDER, flat
from tf32 import with_tf32

from induction_jax import spectra
from induction_jax.types import PyTree

Product = Callable[[PyTree], PyTree]


def compare_precisions(size: str) -> dict[str, dict[str, Any]]:
  """Both ends of one network's Hessian, its products at several precisions.

  Against float64 on the same weights and batch. "default" is whatever the
  device makes of float32 (TF32 on recent GPUs, float32 on a CPU), "tf32" the
  same by rounded factors on any device; Lanczos itself is in float32 always.

  Args:
    size: a key of SIZES.

  Returns:
    By precision the eigenvalues, their largest relative error, the largest
    relative residual (in float64, and the bound that Lanczos gives), products
    and how many pairs it calls converged.
  """
  problem = make_problem(size)
  reference = find_reference(problem)
  exact = np.concatenate([reference.top, reference.bottom])
  found = {}
  for name, product in make_products(problem).items():
    spectrum = jax.device_get(find_ends(product, problem))
    ends = spectrum.top, spectrum.bottom
    values, residuals, converged = (
      np.concatenate([getattr(end, field) for end in ends])
      for field in ("values", "residuals", "converged")
    )
    vectors = np.concatenate([flat(end.vectors) for end in ends])
    answer = Answer(values, vectors, int(spectrum.products))
    found[name] = {
      "eigenvalues": values.tolist(),
      "relative_error": float(np.max(np.abs(values / exact - 1))),
      "relative_residual": relative_residual(answer, reference),
      "claimed_residual": float(np.max(residuals / np.abs(values))),
      "products": answer.products,
      "converged": int(np.sum(converged)),
      "wanted": 2 * K,
    }
  return found


def make_products(problem: Problem) -> dict[str, Product]:
  """The Hessian's product by the precision of the matrix products in it."""

  def at(precision: str) -> Product:
    def product(vector: PyTree) -> PyTree:
      with jax.default_matmul_precision(precision):
        grad = jax.grad(lambda params: problem.loss(params, problem.batch))
        return jax.jvp(grad, (problem.params,), (vector,))[1]

    return product

  return {
    "highest": at("highest"),
    "default": at("default"),
    "tf32": with_tf32(at("highest")),
  }


def find_ends(product: Product, problem: Problem) -> spectra.Spectrum:
  """Lanczos as everywhere in this project, to TOLERANCE."""
  find = jax.jit(
    lambda key: spectra.lanczos(
      product,
      problem.params,
      key,
      k_top=K,
      k_bottom=K,
      max_order=MAX_ORDER,
      tolerance=TOLERANCE,
    )
  )
  return find(jax.random.key(0))
