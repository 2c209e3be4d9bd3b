"""Participation ratio: over how many parameters the top eigenvector spreads."""

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
    "participation ratio of the top eigenvectors, share of parameters",
  ),
  Variable(
    "top_participation_ratio_null", (), "participation ratio, random vector"
  ),
)


def make_participation(
  config: Config, _: Model, curvature: Curvature
) -> Measurement:
  """1 / (P sum_i v_i^4) of every unit eigenvector v of the Hessian's top.

  It is 1 if all P parameters take part equally, 1 / P if one parameter is all
  of the vector, and 1 / 3 in expectation for a random direction.
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
