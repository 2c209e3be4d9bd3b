"""Circuits: QK and OV eigenstructure and composition, from the weights alone.

The compiled part computes [K, K] matrices that have the same non-zero
eigenvalues and singular values as the [V, V] and [D, D] circuits. They are
decomposed on the host, because accelerators have no solver for eigenvalues of
non-symmetric matrices.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from induction_jax import circuits
from induction_jax.config import Config
from induction_jax.measurements.measurement import (
  PER_HEAD,
  PER_PAIR,
  Inputs,
  Measurement,
  Values,
)
from induction_jax.model import rotate
from induction_jax.training.state import stream
from induction_jax.types import Array, Variable

# Sizes of the null distributions: random networks for the scores, random
# rotations for the compositions, and scores kept in the results.
NULL_SAMPLES = 64
ROTATIONS = 4095
KEPT_SAMPLES = 4096
NULL_MATRICES = "null_matrices"  # of the random networks, decomposed later

# Circuits with a spectrum: with the embeddings, and of the head alone.
SPECTRA = {
  "ov": "OV circuit",
  "qk": "QK circuit",
  "ov_alone": "W_V W_O",
  "qk_alone": "W_Q W_K^T",
}
# Eigenvalue scores. The first four belong to SPECTRA, in the same order.
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
# Scores whose null samples are recorded, for p-values.
SAMPLED = tuple(name for name in SCORES if SCORES[name][1] == PER_PAIR)
FRACTIONS = {
  "ov_copied_fraction": "tokens whose own logit OV raises among the top k",
  "qk_matched_fraction": "tokens whose own key QK scores among the top k",
}
COMPOSITIONS = ("q", "k", "v")


def _with_null(
  name: str, dims: tuple[str, ...], long: str
) -> tuple[Variable, ...]:
  """A variable, with its mean and standard deviation over random networks."""
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


def make_circuits(config: Config, *_: Any) -> Measurement:
  """Makes the measurement of QK and OV spectra, scores and compositions."""
  norm, top_k = config.model.norm, config.circuits.top_k
  offset = config.circuits.rotary_offset
  at_offset = config.model.position == "rotary" and offset > 0

  def nulls(inputs: Inputs) -> dict[str, Any]:
    state = inputs.state
    like = circuits.fold_norms(state.params, norm)
    keys = jax.random.split(stream(state.key, "circuits"), NULL_SAMPLES)
    # A loop rather than a batch, because a network may be large.
    samples = jax.lax.map(
      lambda key: _matrices(circuits.random_weights(key, like)), keys
    )
    return {NULL_MATRICES: samples}

  def finish_nulls(samples: dict[str, np.ndarray]) -> Values:
    values = _null_scores(samples, at_offset)
    for name in SPECTRA:
      ranks = circuits.effective_rank(
        circuits.singular_values(samples[f"{name}_singular_values"])
      )
      values[f"{name}_effective_rank_null"] = np.mean(ranks)
      values[f"{name}_effective_rank_null_sd"] = np.std(ranks)
    for name in FRACTIONS:
      values[f"{name}_null"] = np.array(top_k / config.task.vocab_size)
    for x in COMPOSITIONS:
      values[f"{x}_composition_null"] = np.array(config.model.d_model**-0.5)
    return values

  def measure(inputs: Inputs) -> dict[str, Array]:
    weights = circuits.fold_norms(inputs.state.params, norm)
    arrays = _matrices(weights)
    if at_offset:
      # Each row of the identity is a sequence with a single position.
      eye = jnp.eye(config.model.d_head)[:, None]
      rotation = rotate(eye, offset)[:, 0]  # [K, K]
      rotated = _matrices(circuits.turn_queries(weights, rotation))
      arrays |= {f"{name}_at_offset": rotated[name] for name in AT_OFFSET}
    arrays["ov_copied_fraction"] = circuits.copied_fraction(weights, top_k)
    arrays["qk_matched_fraction"] = circuits.matched_fraction(weights, top_k)
    for x, ratio in circuits.composition(weights)._asdict().items():
      arrays[f"{x}_composition"] = ratio
    return arrays

  def finish(arrays: dict[str, Any]) -> Values:
    if NULL_MATRICES in arrays:
      return finish_nulls(arrays[NULL_MATRICES])
    try:
      return _decompose(arrays, config.model.d_model)
    except np.linalg.LinAlgError as error:
      raise FloatingPointError(
        f"the circuits have no eigenvalues ({error}): the weights are too "
        "large, try a lower optim.learning_rate in a new --workdir"
      ) from error

  return Measurement(
    name="circuits",
    interval=config.circuits.interval,
    variables=VARIABLES,
    measure=measure,
    nulls=nulls,
    finish=finish,
  )


def _matrices(weights: circuits.CircuitWeights) -> dict[str, Array]:
  """Matrices [..., K, K] to decompose on the host.

  Matrices for eigenvalues are named for their score, and matrices for singular
  values `<circuit>_singular_values`.
  """
  return {
    "ov_copying": circuits.copying_matrices(weights),
    "qk_matching": circuits.matching_matrices(weights),
    "ov_alone_score": circuits.ov_matrices(weights),
    "qk_alone_score": circuits.qk_matrices(weights),
    "k_composed_matching": circuits.k_composed_matrices(weights),
    "virtual_copying": circuits.virtual_copying_matrices(weights),
  } | {
    f"{circuit}_singular_values": triangle
    for circuit, triangle in circuits.triangles(weights)._asdict().items()
  }


def _decompose(arrays: dict[str, np.ndarray], d_model: int) -> Values:
  """Replaces the matrices by their spectra, scores and p-values."""
  values = dict(arrays)
  scores = (*SCORES, *(f"{name}_at_offset" for name in AT_OFFSET))
  for name in (name for name in scores if name in arrays):
    spectrum = circuits.eigenvalues(arrays[name])
    values[name] = circuits.eigenvalue_score(spectrum)
    if circuit := SPECTRUM_OF.get(name):
      values[f"{circuit}_eigenvalues_real"] = spectrum.real
      values[f"{circuit}_eigenvalues_imag"] = spectrum.imag
  for circuit in SPECTRA:
    name = f"{circuit}_singular_values"
    values[name] = circuits.singular_values(arrays[name])
    values[f"{circuit}_effective_rank"] = circuits.effective_rank(values[name])
  values |= _composition_p_values(values, d_model)
  return {k: np.asarray(v, np.float32) for k, v in values.items()}


def _composition_p_values(values: Values, d_model: int) -> Values:
  qk, ov = (values[f"{x}_alone_singular_values"] for x in ("qk", "ov"))
  overlaps = circuits.random_overlaps(ROTATIONS, d_model, qk.shape[-1])
  found: Values = {}
  # The reader is the QK circuit in Q- and K-composition, else the OV circuit.
  for kinds, reader in (("qk", qk), ("v", ov)):
    ratios = np.stack([values[f"{x}_composition"] for x in kinds])
    p = circuits.composition_p_values(ratios, reader, ov, overlaps)
    found |= {f"{x}_composition_p": each for x, each in zip(kinds, p)}
  return found


def _null_scores(samples: dict[str, np.ndarray], at_offset: bool) -> Values:
  """Mean, standard deviation and samples of the scores of random networks."""
  values: Values = {}
  for name in SCORES:
    scores = circuits.eigenvalue_score(circuits.eigenvalues(samples[name]))
    scores = scores[~np.isnan(scores)]
    # About the exact mean 0; nan with one layer, which has no pairs of heads.
    spread = np.sqrt(np.mean(scores**2)) if scores.size else np.array(np.nan)
    names = [name]
    if at_offset and name in AT_OFFSET:
      names.append(f"{name}_at_offset")  # rotated Gaussians are Gaussian
    for each in names:
      values[f"{each}_null"] = np.zeros(())  # exact, by sign symmetry
      values[f"{each}_null_sd"] = spread
    if name in SAMPLED and scores.size:
      thinned = scores[:: -(-scores.size // KEPT_SAMPLES)]
      values[f"{name}_null_samples"] = thinned.astype(np.float32)
  return values
