"""Projection: the share of an update that lies in the top eigenspace.

Read from the optimiser's state, where the projection of updates keeps it. Only
for runs that project their updates (section `intervention` of the config).
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
    "share of the eigenspace's pairs that are converged",
  ),
)


def make_projection(
  config: Config, _: Model, curvature: Curvature
) -> Measurement:
  """The share of each update in the eigenspace that projects it."""
  k, n_params = config.intervention.project_top_k, curvature.partition.ids.size

  def nulls(_: Inputs) -> dict[str, Array]:
    return {"projection_share_null": jnp.float32(k / n_params)}

  def measure(inputs: Inputs) -> dict[str, Array]:
    state = inputs.state
    values = {
      f"projection_{name}": optax.tree.get(state.opt_state, name)
      for name in ("share", "converged")
    }
    # Before the first update there is nothing yet.
    started = state.step > 0
    return {k: jnp.where(started, v, jnp.nan) for k, v in values.items()}

  return Measurement(
    name="projection",
    interval=config.behaviour.interval,
    variables=VARIABLES,
    measure=measure,
    nulls=nulls,
  )
