"""The online trigger's signal, and what is recorded of it."""

import numpy as np

from induction_jax.measurements.measurement import Probe, Values, nothing
from induction_jax.transition import trigger
from induction_jax.types import Variable

VARIABLES = (
  Variable("alarm", ("step",), "1 while spectra are measured more often"),
  Variable(
    "alarm_cusum",
    ("step",),
    "larger CUSUM of the induction circuit's attention",
    "standard deviations",
  ),
  Variable(
    "alarm_cusum_null", (), "CUSUM that is an alarm", "standard deviations"
  ),
)
# What is recorded of the trigger, which the loop itself asks: it decides what
# is due, so no interval is its own.
ALARM = Probe(name="alarm", interval=0, variables=VARIABLES, measure=nothing)
# The measurements that give the signal, and those that it makes denser.
WATCHED, DENSER = "behaviour", "spectra"


def alarm_signal(values: Values) -> float:
  """Attention of both halves of an induction circuit, wherever they form.

  The best previous-token head's and the best prefix-matching head's, the
  latter on distinct tokens back to back. Before they form both lie at what
  uniform attention gives; losses and accuracies fall and rise all along.
  """
  halves = values["previous_token"], values["prefix_matching_back_to_back"]
  return float(sum(np.max(half) for half in halves))


def alarm_values(state: trigger.Trigger) -> Values:
  """What the history keeps of the trigger's state."""
  return {
    "alarm": np.asarray(state.alarm),
    "alarm_cusum": np.maximum(state.high, state.low),
  }


def alarm_constants() -> Values:
  return {"alarm_cusum_null": np.asarray(trigger.THRESHOLD)}
