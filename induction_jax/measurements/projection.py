"""Projection: the share of an update that lies in the top eigenspace.

It applies to runs that project their updates (`intervention.project`), and is
read from the state of the projecting optimiser.
"""

import jax.numpy as jnp
import optax

from induction_jax.config import Config
from induction_jax.measurements.curvature import Curvature
from induction_jax.measurements.measurement import Inputs, Measurement
from induction_jax.model import Model
from induction_jax.types import Array, Variable

VARIABLES = (
  Variable(
    "projection_share",
    ("step",),
    "share of the newest update's squared norm in the top eigenspace",
  ),
  Variable("projection_share_null", (), "share of a random direction: k / P"),
  Variable(
    "projection_converged",
    ("step",),
    "share of the eigenspace's eigenpairs that converged",
  ),
)


def make_projection(
  config: Config, _: Model, curvature: Curvature
) -> Measurement:
  """Makes the measurement of an update's share in the projected eigenspace."""
  k, n_params = config.intervention.project_top_k, curvature.partition.ids.size

  def nulls(_: Inputs) -> dict[str, Array]:
    return {"projection_share_null": jnp.float32(k / n_params)}

  def measure(inputs: Inputs) -> dict[str, Array]:
    state = inputs.state
    values = {
      f"projection_{name}": optax.tree.get(state.opt_state, name)
      for name in ("share", "converged")
    }
    started = state.step > 0  # before the first update there is no share
    return {k: jnp.where(started, v, jnp.nan) for k, v in values.items()}

  return Measurement(
    name="projection",
    interval=config.behaviour.interval,
    variables=VARIABLES,
    measure=measure,
    nulls=nulls,
  )
