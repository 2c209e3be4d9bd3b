"""Time: when something changes. Sees arrays of (step, signal) only."""

from induction_jax.transition.answers import Interval, Jump, Transition
from induction_jax.transition.detector import MIN_POINTS, detect
from induction_jax.transition.events import Excursion, date_excursion
from induction_jax.transition.lead_lag import (
  Lead,
  alarm_threshold,
  compare,
  departures,
  first_alarm,
)

__all__ = [
  "MIN_POINTS",
  "Excursion",
  "Interval",
  "Jump",
  "Lead",
  "Transition",
  "alarm_threshold",
  "compare",
  "date_excursion",
  "departures",
  "detect",
  "first_alarm",
]
