"""The form of a probe."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from induction_jax.measurements.evaluation_batches import HeldOut
from induction_jax.training.state import TrainState
from induction_jax.types import Array, Params, PyTree, Variable

Values = dict[str, np.ndarray]


def nothing(*_: Any) -> PyTree:
  """An empty pytree: no carry, nothing prepared."""
  return ()


def no_arrays(*_: Any) -> dict[str, Array]:
  """No constants, or nothing to keep in a file."""
  return {}


def content(_: Any) -> None:
  """No complaint."""


def as_they_are(arrays: dict[str, Any]) -> Values:
  """Named arrays that need no finishing."""
  return {name: np.asarray(array) for name, array in arrays.items()}


class Probe(NamedTuple):
  """One kind of measurement, as pure functions for the loop to compile.

  A measurement runs `prepare` and `measure` on the device, each its own
  program, then `finish` on the host. A carry goes from one measurement to the
  next and into the checkpoints, so that a resumed run measures the same. The
  constants are one more program, run once, then `finish_constants`.

  Attributes:
    name: how it is called in the history.
    interval: steps between measurements; 0 is never.
    variables: declaration of all it records, constants included.
    coordinates: the labels along its dimensions, where they have any.
    constants: (state, held_out) -> arrays that do not change in a run, from
      which the nulls are made.
    init_carry: params -> the carry before the first measurement.
    prepare: (state, held_out) -> a pytree for `measure`, such as a linear map.
    measure: (state, held_out, prepared, carry) -> (arrays, new carry).
    finish: arrays on the host -> named values.
    finish_constants: the same for the constants.
    complain: named values -> what is so wrong with them that the run cannot
      go on, and what to do about it; None if nothing is.
    keep: carry -> named arrays to be kept in a file for each measurement.
  """

  name: str
  interval: int
  variables: tuple[Variable, ...]
  measure: Callable[
    [TrainState, HeldOut, PyTree, PyTree], tuple[PyTree, PyTree]
  ]
  coordinates: Mapping[str, Sequence[Any]] = MappingProxyType({})
  constants: Callable[[TrainState, HeldOut], PyTree] = no_arrays
  init_carry: Callable[[Params], PyTree] = nothing
  prepare: Callable[[TrainState, HeldOut], PyTree] = nothing
  finish: Callable[[Any], Values] = as_they_are
  finish_constants: Callable[[Any], Values] = as_they_are
  complain: Callable[[Values], str | None] = content
  keep: Callable[[PyTree], dict[str, Array]] = no_arrays
