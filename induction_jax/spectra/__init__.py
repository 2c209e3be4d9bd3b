"""Curvature: operators on pytrees and their spectra. Never sees the network."""

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
  extremes,
  nudge,
  rounding_error,
)
from induction_jax.spectra.subspaces import alignment, overlap

__all__ = [
  "Eigenpairs",
  "MicroBatches",
  "Operator",
  "Preconditioner",
  "Spectrum",
  "adam_preconditioner",
  "add_rounding",
  "alignment",
  "extremes",
  "gradient",
  "hessian",
  "lanczos",
  "linearized_hessian",
  "nudge",
  "overlap",
  "rescale",
  "rounding_error",
  "sgd_preconditioner",
  "split_batch",
]
