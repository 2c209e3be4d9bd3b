"""How the precision of matrix products changes the Hessian's eigenvalues."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.shared.networks import (
  Answer,
  K,
  Problem,
  find_ends,
  find_reference,
  flatten_vectors,
  make_problem,
  relative_residual,
)
from induction_jax.types import PyTree

# "default" is TF32 on recent GPUs and float32 on a CPU.
PRECISIONS = ("highest", "default")


def compare_precisions(size: str) -> dict[str, dict[str, Any]]:
  """Both ends of the spectrum with products of different precisions.

  The reference is float64 on the same weights and batch. Lanczos itself is in
  float32 throughout.

  Args:
    size: a key of SIZES.

  Returns:
    By precision: the eigenvalues, their largest relative error, the largest
    relative residual (in float64, and as Lanczos bounds it), products and how
    many pairs are called converged.
  """
  problem = make_problem(size)
  reference = find_reference(problem)
  exact = np.concatenate([reference.top, reference.bottom])
  found = {}
  for precision in PRECISIONS:
    product = make_product(problem, precision)
    find = jax.jit(
      lambda key, product=product: find_ends(product, problem.params, key)
    )
    spectrum = jax.device_get(find(jax.random.key(0)))
    ends = spectrum.top, spectrum.bottom
    values, residuals, converged = (
      np.concatenate([getattr(end, field) for end in ends])
      for field in ("values", "residuals", "converged")
    )
    vectors = np.concatenate([flatten_vectors(end.vectors) for end in ends])
    answer = Answer(values, vectors, int(spectrum.products))
    found[precision] = {
      "eigenvalues": values.tolist(),
      "relative_error": float(np.max(np.abs(values / exact - 1))),
      "relative_residual": relative_residual(answer, reference),
      "claimed_residual": float(np.max(residuals / np.abs(values))),
      "products": answer.products,
      "converged": int(np.sum(converged)),
      "wanted": 2 * K,
    }
  return found


def make_product(
  problem: Problem, precision: str
) -> Callable[[PyTree], PyTree]:
  """The HVP with all matrix products at a precision."""

  def product(vector: PyTree) -> PyTree:
    with jax.default_matmul_precision(precision):
      grad = jax.grad(lambda params: problem.loss(params, problem.batch))
      return jax.jvp(grad, (problem.params,), (vector,))[1]

  return product
