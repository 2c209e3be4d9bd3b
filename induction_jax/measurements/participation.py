"""Participation: the share of parameters in which the top eigenvectors lie."""

import jax
import jax.numpy as jnp

from induction_jax.config import Config
from induction_jax.measurements.curvature import Curvature
from induction_jax.measurements.measurement import Inputs, Measurement
from induction_jax.model import Model
from induction_jax.types import Array, Variable

VARIABLES = (
  Variable(
    "top_participation_ratio",
    ("step", "eig"),
    "participation ratio of top eigenvectors, share of parameters",
  ),
  Variable(
    "top_participation_ratio_null", (), "participation ratio, random vector"
  ),
)


def make_participation(
  config: Config, _: Model, curvature: Curvature
) -> Measurement:
  """Makes the measurement of 1 / (P sum_i v_i^4) for each top eigenvector v.

  This participation ratio is 1 if all P entries of the unit vector v are equal
  in magnitude, 1 / P if only one entry is not zero, and about 1 / 3 for a
  random direction.
  """
  n_params = curvature.partition.ids.size

  def measure(inputs: Inputs) -> dict[str, Array]:
    vectors = jax.tree.leaves(inputs.used["spectra"]["top"])  # each [k, ...]
    fourth = [jnp.sum(v**4, axis=range(1, v.ndim)) for v in vectors]
    ratio = 1 / (n_params * jnp.sum(jnp.stack(fourth), axis=0))  # [k]
    return {"top_participation_ratio": ratio}

  def nulls(_: Inputs) -> dict[str, Array]:
    return {"top_participation_ratio_null": jnp.float32(1 / 3)}

  return Measurement(
    name="participation",
    interval=config.participation.interval,
    variables=VARIABLES,
    measure=measure,
    nulls=nulls,
    uses=("spectra",),
  )
