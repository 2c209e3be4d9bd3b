"""Declarations of what the circuits probe records."""

from induction_jax.types import Variable

PER_HEAD = ("step", "layer", "head")
PER_PAIR = (*PER_HEAD, "writer_layer", "writer_head")

# Circuits with a spectrum: through the embeddings, and of the head alone.
SPECTRA = {
  "ov": "OV circuit",
  "qk": "QK circuit",
  "ov_alone": "W_V W_O",
  "qk_alone": "W_Q W_K^T",
}
# Eigenvalue scores; the first four are those of SPECTRA, in order.
SCORES = {
  "ov_copying": ("OV copying score", PER_HEAD),
  "qk_matching": ("QK matching score", PER_HEAD),
  "ov_alone_score": ("eigenvalue score of W_V W_O", PER_HEAD),
  "qk_alone_score": ("eigenvalue score of W_Q W_K^T", PER_HEAD),
  "k_composed_matching": ("K-composed matching score", PER_PAIR),
  "virtual_copying": ("copying score of virtual heads", PER_PAIR),
}
SPECTRUM_OF = dict(zip(SCORES, SPECTRA))
# Scores that rotary positions change, at circuits.rotary_offset.
AT_OFFSET = ("qk_matching", "k_composed_matching")
# Scores whose random values are recorded, for p-values.
SAMPLED = tuple(name for name in SCORES if SCORES[name][1] == PER_PAIR)
FRACTIONS = {
  "ov_copied_fraction": "tokens whose own logit OV raises among the top k",
  "qk_matched_fraction": "tokens whose own key QK scores among the top k",
}
COMPOSITIONS = ("q", "k", "v")


def _with_null(
  name: str, dims: tuple[str, ...], long: str
) -> tuple[Variable, ...]:
  """A measure, and mean and spread of it over random circuits."""
  return (
    Variable(name, dims, long),
    Variable(f"{name}_null", (), f"{long}, mean of random circuits"),
    Variable(f"{name}_null_sd", (), f"{long}, sd of random circuits"),
  )


def _spectrum(name: str, long: str) -> tuple[Variable, ...]:
  per_value = (*PER_HEAD, "circuit_eig")
  return (
    Variable(f"{name}_eigenvalues_real", per_value, f"{long}, Re eigenvalue"),
    Variable(f"{name}_eigenvalues_imag", per_value, f"{long}, Im eigenvalue"),
    Variable(f"{name}_singular_values", per_value, f"{long}, singular value"),
    *_with_null(f"{name}_effective_rank", PER_HEAD, f"{long}, effective rank"),
  )


def _composition(x: str) -> tuple[Variable, ...]:
  name, long = f"{x}_composition", f"{x.upper()}-composition"
  return (
    Variable(name, PER_PAIR, long),
    Variable(f"{name}_null", (), f"{long}, random: D^-1/2"),
    Variable(f"{name}_p", PER_PAIR, f"{long}, one-sided p-value"),
  )


VARIABLES = (
  *(v for name, long in SPECTRA.items() for v in _spectrum(name, long)),
  *(
    v
    for name, (long, dims) in SCORES.items()
    for v in _with_null(name, dims, long)
  ),
  *(
    v
    for name in AT_OFFSET
    for v in _with_null(
      f"{name}_at_offset", SCORES[name][1], f"{SCORES[name][0]} at offset"
    )
  ),
  *(
    Variable(
      f"{name}_null_samples",
      ("null_sample",),
      f"{SCORES[name][0]} of random circuits",
    )
    for name in SAMPLED
  ),
  *(
    v
    for name, long in FRACTIONS.items()
    for v in (
      Variable(name, PER_HEAD, long),
      Variable(f"{name}_null", (), f"{long}, random circuits: k / V"),
    )
  ),
  *(v for x in COMPOSITIONS for v in _composition(x)),
)
