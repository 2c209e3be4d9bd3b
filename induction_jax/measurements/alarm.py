"""Alarm: whether behaviour is changing, so that spectra should be measured.

The alarm is a CUSUM of the attention in both halves of an induction circuit
(see induction_jax.transition.trigger). While it is on, the schedule measures
spectra every `spectra.adaptive` steps. The alarm does not date the transition.
"""

import jax
import jax.numpy as jnp
import numpy as np

from induction_jax.config import Config
from induction_jax.measurements.measurement import Inputs, Measurement
from induction_jax.transition import trigger
from induction_jax.types import Array, Params, PyTree, Variable

VARIABLES = (
  Variable("alarm", ("step",), "1 while spectra are measured more often"),
  Variable(
    "alarm_cusum",
    ("step",),
    "larger CUSUM of the induction circuit's attention",
    "standard deviations",
  ),
  Variable(
    "alarm_cusum_null",
    (),
    "CUSUM that raises the alarm",
    "standard deviations",
  ),
)


def make_alarm(config: Config, *_: PyTree) -> Measurement:
  """Makes the CUSUM of the best previous-token and prefix-matching heads.

  Prefix matching is taken from distinct tokens back to back. Before the heads
  form, both scores stay at the value of uniform attention, whereas losses and
  accuracies change throughout training.
  """

  def measure(inputs: Inputs) -> dict[str, PyTree]:
    behaviour = inputs.used["behaviour"]
    signal = jnp.max(behaviour["previous_token"]) + jnp.max(
      behaviour["prefix_matching_back_to_back"]
    )
    state = trigger.Trigger(**inputs.carry)
    state = jax.pure_callback(_update, state, state, signal)
    return {
      **state._asdict(),
      "alarm_cusum": jnp.maximum(state.high, state.low),
    }

  def nulls(_: Inputs) -> dict[str, Array]:
    return {"alarm_cusum_null": jnp.float32(trigger.THRESHOLD)}

  def init_carry(_: Params) -> dict[str, Array]:
    return jax.tree.map(jnp.asarray, trigger.init_trigger()._asdict())

  return Measurement(
    name="alarm",
    interval=config.behaviour.interval if config.spectra.adaptive else 0,
    variables=VARIABLES,
    measure=measure,
    nulls=nulls,
    init_carry=init_carry,
    uses=("behaviour",),
  )


def _update(state: trigger.Trigger, signal: Array) -> trigger.Trigger:
  """Updates the trigger on the host, called by the compiled program.

  A callback receives jax arrays. They are converted to numpy so that the
  trigger computes in float64.
  """
  return trigger.update(jax.tree.map(np.asarray, state), float(signal))
