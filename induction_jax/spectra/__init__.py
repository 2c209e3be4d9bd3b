"""Curvature: operators on pytrees and their spectra. Never sees the network."""

from induction_jax.spectra.blocks import (
  BlockExtremes,
  BlockNorms,
  Extremes,
  Partition,
  block_extremes,
  block_norms,
  make_partition,
  mass,
)
from induction_jax.spectra.checks import check_operator
from induction_jax.spectra.density import (
  Count,
  Density,
  Quadrature,
  count_above,
  count_below,
  density,
  linear,
  make_grid,
  moment,
  quadrature,
  symlog,
)
from induction_jax.spectra.exact import dense, exact_spectrum
from induction_jax.spectra.gauss_newton import (
  empirical_fisher,
  exact_fisher,
  gauss_newton,
)
from induction_jax.spectra.lanczos import Eigenpairs, Spectrum, lanczos
from induction_jax.spectra.memory import (
  Plan,
  linear_map_bytes,
  plan_products,
)
from induction_jax.spectra.operators import (
  MicroBatches,
  Operator,
  gradient,
  hessian,
  linearize,
  linearized_hessian,
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
from induction_jax.spectra.rounding import (
  POWER_STEPS,
  add_rounding,
  dominant,
  extremes,
  nudge,
  rounding_error,
)
from induction_jax.spectra.subspaces import alignment, overlap
from induction_jax.spectra.trace import Estimate, Sizes, estimate_sizes
from induction_jax.spectra.warm import make_start, may_start_warm

__all__ = [
  "POWER_STEPS",
  "BlockExtremes",
  "BlockNorms",
  "Count",
  "Density",
  "Eigenpairs",
  "Estimate",
  "Extremes",
  "MicroBatches",
  "Operator",
  "Partition",
  "Plan",
  "Preconditioner",
  "Quadrature",
  "Sizes",
  "Spectrum",
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
  "exact_spectrum",
  "extremes",
  "gauss_newton",
  "gradient",
  "hessian",
  "lanczos",
  "linear",
  "linear_map_bytes",
  "linearize",
  "linearized_hessian",
  "make_grid",
  "make_partition",
  "make_start",
  "mass",
  "may_start_warm",
  "moment",
  "nudge",
  "overlap",
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
