"""Time: when behaviour changes. Sees arrays of (step, signal) only."""

from induction_jax.transition.detector import (
  MIN_POINTS,
  Interval,
  Jump,
  Transition,
  detect,
)

__all__ = ["MIN_POINTS", "Interval", "Jump", "Transition", "detect"]
