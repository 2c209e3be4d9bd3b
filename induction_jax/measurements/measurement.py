"""The form of a measurement: training state in, named arrays out."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from induction_jax.measurements.batches import EvaluationBatches
from induction_jax.training.state import TrainState
from induction_jax.types import Array, Params, PyTree, Variable

Values = dict[str, np.ndarray]

# Dimensions of variables with one value for each head, or each pair of heads.
# In a pair the second head, the writer, is in a layer before the first.
PER_HEAD = ("step", "layer", "head")
PER_PAIR = (*PER_HEAD, "writer_layer", "writer_head")


class Inputs(NamedTuple):
  """The arguments of a measurement.

  Attributes:
    state: the training state.
    batches: the evaluation batches of the run.
    used: results of the measurements and shared quantities that
      `Measurement.uses` names, computed at the same step.
    carry: arrays that this measurement returned the last time it was made, or
      `Measurement.init_carry` the first time.
  """

  state: TrainState
  batches: EvaluationBatches
  used: dict[str, Any]
  carry: dict[str, PyTree]


def no_arrays(_: Any) -> dict[str, Any]:
  """The default of `nulls` and `init_carry`: no null values, no carry."""
  return {}


def to_numpy(arrays: dict[str, Any]) -> Values:
  """The default of `finish`: the arrays, converted to numpy."""
  return {name: np.asarray(array) for name, array in arrays.items()}


class Measurement(NamedTuple):
  """One kind of measurement, as pure functions that the run compiles.

  Arrays that `measure` returns and `variables` declares go to the history.
  Arrays of the carry go to the checkpoints. All others are written to
  `<name>/<step>.npz`.

  Attributes:
    name: the measurement's name in the history and on the command line.
    interval: steps between measurements; 0 turns it off.
    variables: declarations of everything it records, including null values.
    measure: inputs -> arrays by name. It is compiled, so it must be pure.
    nulls: inputs -> arrays by name that are constant during a run, mostly null
      values. It is compiled and called once, at the start of a run.
    finish: arrays on the host -> values to record. It does what does not suit
      an accelerator, and may raise FloatingPointError to end the run.
    init_carry: params -> the carry of the first measurement. Later carries
      hold the newest arrays of the same names.
    uses: names of the measurements, or of shared quantities
      (`induction_jax.measurements.curvature`), whose results it needs.
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
