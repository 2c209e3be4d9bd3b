"""Projection: what the training's own projection of its updates leaves out.

Read from the optimiser's state, where the projection keeps it; only in runs
whose updates are projected (section `intervention` of the config).
"""

import jax.numpy as jnp
import optax

from induction_jax.config import Config
from induction_jax.measurements.evaluation_batches import HeldOut
from induction_jax.measurements.measurement import Probe
from induction_jax.training.state import TrainState
from induction_jax.types import Array, PyTree, Variable

VARIABLES = (
  Variable(
    "projection_share",
    ("step",),
    "share of the newest update's squared norm in the top eigenspace",
  ),
  Variable(
    "projection_share_null", (), "the same of a random direction, k / P"
  ),
  Variable(
    "projection_converged",
    ("step",),
    "share of the eigenspace's pairs that are converged",
  ),
)


def make_projection_probe(config: Config, n_params: int) -> Probe:
  """The optimiser's update before it is projected, and with what."""
  c = config.intervention

  def constants(*_: PyTree) -> dict[str, Array]:
    return {"projection_share_null": jnp.float32(c.project_top_k / n_params)}

  def measure(
    state: TrainState, _: HeldOut, __: PyTree, carry: PyTree
  ) -> tuple[dict[str, Array], PyTree]:
    values = {
      f"projection_{name}": optax.tree.get(state.opt_state, name)
      for name in ("share", "converged")
    }
    # Before the first update there is nothing yet.
    started = state.step > 0
    return {k: jnp.where(started, v, jnp.nan) for k, v in values.items()}, carry

  return Probe(
    name="projection",
    interval=0 if c.project == "none" else config.behaviour.interval,
    variables=VARIABLES,
    constants=constants,
    measure=measure,
  )
