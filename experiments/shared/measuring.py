"""One measurement as compiled programs, to be timed and weighed."""

from typing import Any, NamedTuple

import jax

from experiments.shared.device import planned_bytes
from induction_jax.measurements import EvaluationBatches, Inputs, Measurement
from induction_jax.run.experiment import Experiment
from induction_jax.training.state import TrainState
from induction_jax.types import PyTree


class Compiled(NamedTuple):
  """A measurement and its programs.

  Attributes:
    measurement: what is measured.
    shared: programs (state, batches) -> the quantities that it uses, by name.
    program: inputs -> arrays by name.
    carry: of the first measurement.
  """

  measurement: Measurement
  shared: dict[str, Any]
  program: Any
  carry: dict[str, PyTree]

  @property
  def bytes(self) -> int:
    """Peak memory of the largest program according to XLA's plan."""
    return max(map(planned_bytes, (self.program, *self.shared.values())))

  def prepare(self, state: TrainState, batches: EvaluationBatches) -> Inputs:
    """Computes the inputs of the program."""
    return make_inputs(self.shared, state, batches, self.carry)

  def measure(self, inputs: Inputs) -> dict[str, Any]:
    """Measures; returns the arrays on the host, without the carry."""
    arrays = self.program(inputs)
    return jax.device_get(
      {name: x for name, x in arrays.items() if name not in self.carry}
    )


def compile_measurement(
  experiment: Experiment,
  name: str,
  state: TrainState,
  batches: EvaluationBatches,
) -> Compiled:
  """Compiles a measurement that uses shared quantities only."""
  (measurement,) = (x for x in experiment.all_measurements if x.name == name)
  shared = {
    used: compile_for(experiment.shared[used], state, batches)
    for used in measurement.uses
  }
  carry = measurement.init_carry(state.params)
  inputs = make_inputs(shared, state, batches, carry)
  program = compile_for(measurement.measure, inputs)
  return Compiled(measurement, shared, program, carry)


def make_inputs(
  shared: dict[str, Any],
  state: TrainState,
  batches: EvaluationBatches,
  carry: dict[str, PyTree],
) -> Inputs:
  used = {name: compute(state, batches) for name, compute in shared.items()}
  return Inputs(state, batches, used, carry)


def compile_for(function: Any, *arguments: Any) -> Any:
  """Compiles a jitted function for these arguments."""
  return function.lower(*arguments).compile()
