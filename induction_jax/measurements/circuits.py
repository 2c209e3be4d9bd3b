"""Circuits: QK and OV eigenstructure, composition."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from induction_jax import circuits
from induction_jax.config import Config
from induction_jax.measurements import circuit_variables
from induction_jax.measurements.circuit_variables import (
  AT_OFFSET,
  COMPOSITIONS,
  SAMPLED,
  SCORES,
  SPECTRA,
  SPECTRUM_OF,
)
from induction_jax.measurements.measurement import (
  Inputs,
  Measurement,
  Values,
)
from induction_jax.model import rotate
from induction_jax.training.state import stream
from induction_jax.types import Array

# Random networks to sample for the null of every score, random rotations for
# that of the compositions, and values of a null kept in the results.
NULL_SAMPLES = 64
ROTATIONS = 4095
KEPT_SAMPLES = 4096
NULL_MATRICES = "null_matrices"  # of random networks, until they are finished


def make_circuits(config: Config, *_: Any) -> Measurement:
  """QK and OV spectra, scores and compositions, from the weights alone."""
  norm, top_k = config.model.norm, config.circuits.top_k
  offset = config.circuits.rotary_offset
  at_offset = config.model.position == "rotary" and offset > 0

  def nulls(inputs: Inputs) -> dict[str, Any]:
    state = inputs.state
    like = circuits.fold_norms(state.params, norm)
    keys = jax.random.split(stream(state.key, "circuits"), NULL_SAMPLES)
    # One after another, because a network may be large.
    samples = jax.lax.map(
      lambda key: _matrices(circuits.random_weights(key, like)), keys
    )
    return {NULL_MATRICES: samples}

  def finish_nulls(samples: dict[str, np.ndarray]) -> Values:
    values = _null_scores(samples, at_offset)
    for name in SPECTRA:
      ranks = _effective_rank(samples[f"{name}_singular_values"])
      values[f"{name}_effective_rank_null"] = np.mean(ranks)
      values[f"{name}_effective_rank_null_sd"] = np.std(ranks)
    for name in circuit_variables.FRACTIONS:
      values[f"{name}_null"] = np.array(top_k / config.task.vocab_size)
    for x in COMPOSITIONS:
      values[f"{x}_composition_null"] = np.array(config.model.d_model**-0.5)
    return values

  def measure(inputs: Inputs) -> dict[str, Array]:
    weights = circuits.fold_norms(inputs.state.params, norm)
    arrays = _matrices(weights)
    if at_offset:
      # Each row of the identity is a sequence of one position of its own.
      eye = jnp.eye(config.model.d_head)[:, None]
      rotation = rotate(eye, offset)[:, 0]  # [K, K]
      turned = _matrices(circuits.turn_queries(weights, rotation))
      arrays |= {f"{name}_at_offset": turned[name] for name in AT_OFFSET}
    arrays["ov_copied_fraction"] = circuits.copied_fraction(weights, top_k)
    arrays["qk_matched_fraction"] = circuits.matched_fraction(weights, top_k)
    for x, ratio in circuits.composition(weights)._asdict().items():
      arrays[f"{x}_composition"] = ratio
    return arrays

  def finish(arrays: dict[str, Any]) -> Values:
    if NULL_MATRICES in arrays:
      return finish_nulls(arrays[NULL_MATRICES])
    return _finish(arrays, config.model.d_model)

  return Measurement(
    name="circuits",
    interval=config.circuits.interval,
    variables=circuit_variables.VARIABLES,
    measure=measure,
    nulls=nulls,
    finish=finish,
  )


def _matrices(weights: circuits.CircuitWeights) -> dict[str, Array]:
  """[..., K, K] matrices with the eigenvalues and singular values recorded.

  Those of the scores by the name of the score.
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


def _finish(arrays: dict[str, np.ndarray], d_model: int) -> Values:
  """Spectra on the host, in place of the matrices.

  Raises:
    FloatingPointError: if weights are so large that a matrix is not finite.
  """
  try:
    return _take_apart(arrays, d_model)
  except np.linalg.LinAlgError as error:
    raise FloatingPointError(
      f"the circuits have no eigenvalues ({error}): the weights are too large, "
      "try a lower optim.learning_rate in a new --workdir"
    ) from error


def _take_apart(arrays: dict[str, np.ndarray], d_model: int) -> Values:
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
  for kinds, reader in (("qk", qk), ("v", ov)):  # a null for each reader
    ratios = np.stack([values[f"{x}_composition"] for x in kinds])
    p = circuits.composition_p_values(ratios, reader, ov, overlaps)
    found |= {f"{x}_composition_p": each for x, each in zip(kinds, p)}
  return found


def _null_scores(samples: dict[str, np.ndarray], at_offset: bool) -> Values:
  """Mean, spread and some values of every score of random networks."""
  values: Values = {}
  for name in SCORES:
    scores = circuits.eigenvalue_score(circuits.eigenvalues(samples[name]))
    scores = scores[~np.isnan(scores)]
    names = [name]
    if at_offset and name in AT_OFFSET:
      names.append(f"{name}_at_offset")  # turned Gaussians are Gaussian
    for each in names:
      values[f"{each}_null"] = np.zeros(())  # exact, by sign symmetry
      values[f"{each}_null_sd"] = _spread(scores)
    if name in SAMPLED and scores.size:
      thinned = scores[:: -(-scores.size // KEPT_SAMPLES)]
      values[f"{name}_null_samples"] = thinned.astype(np.float32)
  return values


def _effective_rank(matrices: np.ndarray) -> np.ndarray:
  return circuits.effective_rank(circuits.singular_values(matrices))


def _spread(scores: np.ndarray) -> np.ndarray:
  """Root mean square about the exact mean 0; nan if there are no scores."""
  return np.sqrt(np.mean(scores**2)) if scores.size else np.array(np.nan)
