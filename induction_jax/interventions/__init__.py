"""Interventions: what a whole run is kept from, or made to do.

What an induction head needs is shown by taking it away, or by giving it, from
step 0 on: heads clamped, parameters frozen, updates projected. Everything here
wraps what a run is made of, the model or the optimiser, and leaves it as it is
where the config asks for nothing.
"""

from induction_jax.interventions.clamp import (
  KINDS,
  clamp_heads,
)
from induction_jax.interventions.freeze import freeze, frozen_mask
from induction_jax.interventions.project import (
  ProjectionState,
  inside,
  project,
)
from induction_jax.interventions.update import intervene

__all__ = [
  "KINDS",
  "ProjectionState",
  "clamp_heads",
  "freeze",
  "frozen_mask",
  "inside",
  "intervene",
  "project",
]
