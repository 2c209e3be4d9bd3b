"""Declarations of what the spectra probe records."""

from induction_jax.types import Variable

ENDS = ("top", "bottom")


def _pair_variables(
  prefix: str, what: str, dim: str, units: str, ends: tuple[str, ...] = ENDS
) -> tuple[Variable, ...]:
  dims = ("step", dim)
  pairs = tuple(
    variable
    for end in ends
    for variable in (
      Variable(
        f"{prefix}{end}_eigenvalues", dims, f"{end} eigenvalues, {what}", units
      ),
      Variable(
        f"{prefix}{end}_residuals",
        dims,
        f"bound on residual norm, {end} eigenpairs, {what}",
        units,
      ),
      Variable(
        f"{prefix}{end}_converged",
        dims,
        f"1 if converged, {end} eigenpairs, {what}",
      ),
    )
  )
  return (
    *pairs,
    Variable(f"{prefix}products", ("step",), f"products, {what}", "products"),
  )


def _end_variables(end: str) -> tuple[Variable, ...]:
  """What is known of the Hessian's eigenvectors at one end."""
  return (
    Variable(
      f"{end}_alignment",
      ("step", "eig"),
      f"gradient alignment with {end} eigenvectors",
    ),
    Variable(
      f"{end}_alignment_null", (), "alignment of a random direction: 1 / P"
    ),
    Variable(
      f"{end}_alignment_total",
      ("step",),
      f"gradient share in the {end} eigenspace",
    ),
    Variable(
      f"{end}_alignment_total_null",
      ("step",),
      "share of a random direction: k / P",
    ),
    Variable(
      f"{end}_overlap",
      ("step",),
      f"{end} eigenspace, overlap with the measurement before",
    ),
    Variable(
      f"{end}_overlap_null", ("step",), "overlap of random subspaces: k / P"
    ),
    Variable(
      f"{end}_block_mass",
      ("step", "eig", "block"),
      f"share of {end} eigenvectors in each block",
    ),
    Variable(
      f"{end}_block_mass_null",
      ("block",),
      "share of a random direction in each block: its parameters / P",
    ),
  )


VARIABLES = (
  *_pair_variables("", "Hessian", "eig", "nats"),
  Variable("spectral_norm", ("step",), "Hessian spectral norm", "nats"),
  Variable("gradient_norm", ("step",), "gradient norm, Hessian batch", "nats"),
  # Recorded by earlier versions only, whose runs can still be read.
  Variable("warm_start", ("step",), "1 if Lanczos began at old eigenvectors"),
  *(variable for end in ENDS for variable in _end_variables(end)),
  # The bottom was recorded by earlier versions only, likewise.
  *_pair_variables(
    "preconditioned_", "preconditioned Hessian", "preconditioned_eig", "1"
  ),
  Variable("preconditioned_edge", ("step",), "stability edge"),
  *_pair_variables(
    "gauss_newton_", "Gauss-Newton part", "gauss_newton_eig", "nats", ("top",)
  ),
  *_pair_variables(
    "functional_", "functional part H - G", "gauss_newton_eig", "nats"
  ),
)
