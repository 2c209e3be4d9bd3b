"""The form of a measurement: training state in, named arrays out."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from induction_jax.measurements.batches import EvaluationBatches
from induction_jax.training.state import TrainState
from induction_jax.types import Array, Params, PyTree, Variable

Values = dict[str, np.ndarray]


class Inputs(NamedTuple):
  """What a measurement may look at.

  Attributes:
    state: the training state.
    batches: the evaluation batches of the run.
    used: what `Measurement.uses` names, as computed at this very step.
    carry: arrays that this measurement returned the last time it was made; see
      `Measurement.init_carry`.
  """

  state: TrainState
  batches: EvaluationBatches
  used: dict[str, Any]
  carry: dict[str, PyTree]


def no_arrays(_: Any) -> dict[str, Any]:
  """The default where a measurement has no null values or no carry."""
  return {}


def to_numpy(arrays: dict[str, Any]) -> Values:
  """The default `finish`: the arrays as they left the device."""
  return {name: np.asarray(array) for name, array in arrays.items()}


class Measurement(NamedTuple):
  """One kind of measurement, as pure functions that the run compiles.

  Arrays that `measure` returns and `variables` does not declare are too large
  for the history: they are written to `<name>/<step>.npz`, unless they are part
  of the carry, which lives in the checkpoints.

  Attributes:
    name: the measurement's name in the history and on the command line.
    interval: steps between measurements; 0 turns it off.
    variables: declarations of everything it records, null values included.
    measure: inputs -> arrays by name. Compiled, so it must be pure.
    nulls: inputs -> arrays by name that never change during a run, null values
      above all. Compiled and computed once, at the start of a run.
    finish: arrays on the host -> values to record. For work that is not for an
      accelerator, and for checks: a FloatingPointError ends the run.
    init_carry: params -> the carry of the first measurement. Afterwards the
      carry holds the newest arrays of the same names.
    uses: names of other measurements, or of shared quantities
      (`induction_jax.measurements.curvature`), whose arrays it needs.
    coordinates: labels along the dimensions of its variables.
  """

  name: str
  interval: int
  variables: tuple[Variable, ...]
  measure: Callable[[Inputs], dict[str, PyTree]]
  nulls: Callable[[Inputs], dict[str, Array]] = no_arrays
  finish: Callable[[dict[str, Any]], Values] = to_numpy
  init_carry: Callable[[Params], dict[str, PyTree]] = no_arrays
  uses: tuple[str, ...] = ()
  coordinates: Mapping[str, Sequence[Any]] = MappingProxyType({})
