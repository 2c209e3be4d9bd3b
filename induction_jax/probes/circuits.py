"""Circuits: QK and OV eigenstructure, composition."""

import jax
import numpy as np

from induction_jax import circuits
from induction_jax.config import Config
from induction_jax.probes.held_out import HeldOut
from induction_jax.probes.probe import Probe, Values
from induction_jax.state import TrainState, stream
from induction_jax.types import Array, PyTree, Variable

# Random circuits to sample for the spread of a score under its null.
NULL_SAMPLES = 64

PER_HEAD = ("step", "layer", "head")
PER_PAIR = (*PER_HEAD, "writer_layer", "writer_head")
PER_EIGENVALUE = (*PER_HEAD, "circuit_eig")
SCORES = {
  "ov_copying": ("OV copying score", PER_HEAD),
  "qk_matching": ("QK matching score", PER_HEAD),
  "k_composed_matching": ("K-composed matching score", PER_PAIR),
}
COMPOSITIONS = ("q", "k", "v")

VARIABLES = (
  *(Variable(name, dims, long) for name, (long, dims) in SCORES.items()),
  *(
    Variable(f"{name}_null", (), f"{long}, mean of random circuits")
    for name, (long, _) in SCORES.items()
  ),
  *(
    Variable(f"{name}_null_sd", (), f"{long}, sd of random circuits")
    for name, (long, _) in SCORES.items()
  ),
  *(
    Variable(f"{circuit}_eigenvalues_{part}", PER_EIGENVALUE, long)
    for circuit in ("ov", "qk")
    for part, long in (
      ("real", f"{circuit.upper()} circuit eigenvalue, real part"),
      ("imag", f"{circuit.upper()} circuit eigenvalue, imaginary part"),
    )
  ),
  *(
    Variable(f"{x}_composition", PER_PAIR, f"{x.upper()}-composition")
    for x in COMPOSITIONS
  ),
  *(
    Variable(
      f"{x}_composition_null", (), f"{x.upper()}-composition, random: D^-1/2"
    )
    for x in COMPOSITIONS
  ),
)


def make_circuits_probe(config: Config) -> Probe:
  """Weights read as circuits."""
  norm = config.model.norm

  def constants(state: TrainState, _: HeldOut) -> dict[str, Array]:
    like = circuits.fold_norms(state.params, norm)
    keys = jax.random.split(stream(state.key, "circuits"), NULL_SAMPLES)
    return jax.vmap(lambda key: _matrices(circuits.random_weights(key, like)))(
      keys
    )

  def finish_constants(samples: dict[str, np.ndarray]) -> Values:
    values: Values = {}
    for name, matrices in samples.items():
      scores = circuits.eigenvalue_score(circuits.eigenvalues(matrices))
      values[f"{name}_null"] = np.zeros(())  # exact, by sign symmetry
      values[f"{name}_null_sd"] = _spread(scores)
    for x in COMPOSITIONS:
      values[f"{x}_composition_null"] = np.array(config.model.d_model**-0.5)
    return values

  def measure(
    state: TrainState, _: HeldOut, __: PyTree, carry: PyTree
  ) -> tuple[dict[str, Array], PyTree]:
    weights = circuits.fold_norms(state.params, norm)
    arrays = _matrices(weights)
    for x, ratio in circuits.composition(weights)._asdict().items():
      arrays[f"{x}_composition"] = ratio
    return arrays, carry

  return Probe(
    name="circuits",
    interval=config.circuits.interval,
    variables=VARIABLES,
    constants=constants,
    measure=measure,
    finish=_finish,
    finish_constants=finish_constants,
  )


def _matrices(weights: circuits.CircuitWeights) -> dict[str, Array]:
  """For each of SCORES, the [..., K, K] matrices whose eigenvalues make it."""
  return {
    "ov_copying": circuits.copying_matrices(weights),
    "qk_matching": circuits.matching_matrices(weights),
    "k_composed_matching": circuits.k_composed_matrices(weights),
  }


def _finish(arrays: dict[str, np.ndarray]) -> Values:
  """Eigenvalues on the host, in place of the matrices."""
  values = {k: np.asarray(v) for k, v in arrays.items() if k not in SCORES}
  for name in SCORES:
    spectrum = circuits.eigenvalues(arrays[name])
    values[name] = circuits.eigenvalue_score(spectrum).astype(np.float32)
    if name != "k_composed_matching":
      circuit = name.split("_")[0]
      real = spectrum.real.astype(np.float32)
      imag = spectrum.imag.astype(np.float32)
      values[f"{circuit}_eigenvalues_real"] = real
      values[f"{circuit}_eigenvalues_imag"] = imag
  return values


def _spread(scores: np.ndarray) -> np.ndarray:
  """Root mean square about the exact mean 0; nan if there are no scores."""
  scores = scores[~np.isnan(scores)]
  return np.sqrt(np.mean(scores**2)) if scores.size else np.array(np.nan)
