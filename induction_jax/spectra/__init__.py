"""Curvature: operators on pytrees and their spectra. Never sees the network."""

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
from induction_jax.spectra.lanczos import Eigenpairs, Spectrum, lanczos
from induction_jax.spectra.operators import (
  MicroBatches,
  Operator,
  gradient,
  hessian,
  linearized_hessian,
  rescale,
  split_batch,
)
from induction_jax.spectra.preconditioner import (
  Preconditioner,
  adam_preconditioner,
  sgd_preconditioner,
)
from induction_jax.spectra.rounding import (
  add_rounding,
  nudge,
  rounding_error,
)
from induction_jax.spectra.subspaces import alignment, overlap
from induction_jax.spectra.trace import Estimate, Sizes, estimate_sizes
from induction_jax.spectra.warm import make_start, may_start_warm

__all__ = [
  "Count",
  "Density",
  "Eigenpairs",
  "Estimate",
  "MicroBatches",
  "Operator",
  "Preconditioner",
  "Quadrature",
  "Sizes",
  "Spectrum",
  "adam_preconditioner",
  "add_rounding",
  "alignment",
  "count_above",
  "count_below",
  "density",
  "estimate_sizes",
  "gradient",
  "hessian",
  "lanczos",
  "linear",
  "linearized_hessian",
  "make_grid",
  "make_start",
  "may_start_warm",
  "moment",
  "nudge",
  "overlap",
  "quadrature",
  "rescale",
  "rounding_error",
  "sgd_preconditioner",
  "split_batch",
  "symlog",
]
