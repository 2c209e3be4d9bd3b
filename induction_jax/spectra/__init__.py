"""Curvature of a loss: linear operators on pytrees, and their spectra.

Nothing here knows a network: a loss is any scalar function of a pytree of
parameters and a batch. P is the number of parameters, M the number of rows of a
Lanczos basis, N the number of probe vectors, k the number of eigenpairs.

  operator        a function v -> A v on pytrees like the parameters, linear and
                  symmetric, evaluated at the highest matrix precision. A
                  product is one evaluation of it.
  eigenpair       (lambda, v), lambda signed, v of unit norm. `top` pairs
                  descend from the largest eigenvalue, `bottom` pairs ascend
                  from the smallest.
  residual bound  an upper bound r on ||A v - lambda v||. Some eigenvalue lies
                  within r of lambda. If all others are at least `gap` away, the
                  error of lambda is at most r^2 / gap, and the sine of the
                  angle between v and the eigenvector at most r / gap (Parlett
                  1998, theorems 4.5.1 and 11.7.1).
                  The bound does not say that no eigenvalue lies further out,
                  nor how often lambda is repeated, nor how far the spectrum of
                  this batch is from the spectrum of the population. It holds
                  for the operator as computed: `rounding_error` estimates what
                  the rounding of products adds, and `add_rounding` adds it.
  converged       the residual bound is at most tolerance * |lambda|, or as
                  small as rounding permits.
  probe vector    a random vector z of independent signs, E z z^T = 1, from
                  which traces, norms and densities are estimated. A standard
                  error is that of the mean over N of them.
  null value      the value of a score if only chance is at work: here the exact
                  mean over vectors, or subspaces, of uniformly random
                  direction. Alignment with an eigenvector: 1 / P. Overlap of
                  two k-dimensional subspaces: k / P. Mass on a block: its
                  size / P. Nothing is sampled for them.
"""

from induction_jax.spectra.blocks import (
  Partition,
  block_extremes,
  block_norms,
  make_partition,
  mass,
)
from induction_jax.spectra.checks import check_operator
from induction_jax.spectra.density import (
  Quadrature,
  count_above,
  count_below,
  density,
  linear,
  quadrature,
  symlog,
)
from induction_jax.spectra.eigenpairs import (
  POWER_STEPS,
  Eigenpairs,
  Spectrum,
  add_rounding,
  alignment,
  dominant,
  extremes,
  overlap,
  rounding_error,
)
from induction_jax.spectra.exact import (
  MAX_PARAMETERS,
  dense,
  exact_quadrature,
  exact_sizes,
  exact_spectrum,
)
from induction_jax.spectra.gauss_newton import (
  empirical_fisher,
  exact_fisher,
  gauss_newton,
)
from induction_jax.spectra.krylov import UNSHARDED, VectorSharding
from induction_jax.spectra.lanczos import lanczos
from induction_jax.spectra.memory import (
  ProductPlan,
  linear_map_bytes,
  plan_basis,
  plan_products,
)
from induction_jax.spectra.operators import (
  MicroBatches,
  Operator,
  gradient,
  hessian,
  linearize,
  rescale,
  restrict,
  split_batch,
  subtract,
)
from induction_jax.spectra.preconditioner import (
  Preconditioner,
  adam_preconditioner,
  sgd_preconditioner,
)
from induction_jax.spectra.trace import Sizes, estimate_sizes

__all__ = [
  "MAX_PARAMETERS",
  "POWER_STEPS",
  "UNSHARDED",
  "Eigenpairs",
  "MicroBatches",
  "Operator",
  "Partition",
  "Preconditioner",
  "ProductPlan",
  "Quadrature",
  "Sizes",
  "Spectrum",
  "VectorSharding",
  "adam_preconditioner",
  "add_rounding",
  "alignment",
  "block_extremes",
  "block_norms",
  "check_operator",
  "count_above",
  "count_below",
  "dense",
  "density",
  "dominant",
  "empirical_fisher",
  "estimate_sizes",
  "exact_fisher",
  "exact_quadrature",
  "exact_sizes",
  "exact_spectrum",
  "extremes",
  "gauss_newton",
  "gradient",
  "hessian",
  "lanczos",
  "linear",
  "linear_map_bytes",
  "linearize",
  "make_partition",
  "mass",
  "overlap",
  "plan_basis",
  "plan_products",
  "quadrature",
  "rescale",
  "restrict",
  "rounding_error",
  "sgd_preconditioner",
  "split_batch",
  "subtract",
  "symlog",
]
