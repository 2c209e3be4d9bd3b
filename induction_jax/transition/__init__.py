"""Time: when behaviour changes. Sees arrays of (step, signal) only."""

from induction_jax.transition.detector import Interval, Transition, detect

__all__ = ["Interval", "Transition", "detect"]
