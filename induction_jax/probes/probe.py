"""The form of a probe."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from induction_jax.state import TrainState
from induction_jax.types import Params, PyTree, Variable

Values = dict[str, np.ndarray]


class Probe(NamedTuple):
  """One kind of measurement, as pure functions for the loop to compile.

  A measurement runs `prepare` and `measure` on the device, each its own
  program, then `finish` on the host. A carry goes from one measurement to the
  next and into the checkpoints, so that a resumed run measures the same.

  Attributes:
    name: how it is called in the history.
    interval: steps between measurements; 0 is never.
    variables: declaration of all it records, constants included.
    constants: state -> values that do not change in a run (the nulls); run
      once, not compiled.
    init_carry: params -> the carry before the first measurement.
    prepare: state -> a pytree for `measure`, such as a linear map.
    measure: (state, prepared, carry) -> (arrays, new carry).
    finish: arrays on the host -> named values.
  """

  name: str
  interval: int
  variables: tuple[Variable, ...]
  constants: Callable[[TrainState], Values]
  init_carry: Callable[[Params], PyTree]
  prepare: Callable[[TrainState], PyTree]
  measure: Callable[[TrainState, PyTree, PyTree], tuple[PyTree, PyTree]]
  finish: Callable[[Any], Values]


def nothing(_: Any) -> PyTree:
  """An empty pytree: no carry, nothing prepared."""
  return ()
