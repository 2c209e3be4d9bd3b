"""The training state, a pytree of arrays, and the random streams of a run."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from induction_jax.model import Model
from induction_jax.types import Array, Key, Params, PyTree

# The order is part of every run: a new stream is added at the end.
STREAMS = (
  "params",
  "train",
  "induction",
  "behaviour",
  "circuits",
  "spectra",
)


class TrainState(NamedTuple):
  """Everything that training changes, and the key of the run.

  Attributes:
    step: number of updates done, an int32 scalar.
    params: the parameters.
    opt_state: the state of the optimiser.
    key: never changes. The batch of a step is a function of (key, step), and
      an evaluation batch a function of the key alone.
  """

  step: Array
  params: Params
  opt_state: PyTree
  key: Key


def stream(key: Key, name: str) -> Key:
  """The key of one of STREAMS.

  Training and measurements draw from separate streams, so that measuring more
  or less does not change the training.
  """
  return jax.random.fold_in(key, STREAMS.index(name))


def init_state(
  model: Model, tx: optax.GradientTransformation, key: Key
) -> TrainState:
  """The training state at step 0; the parameters are drawn with the key."""
  params = model.init(stream(key, "params"))
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    opt_state=tx.init(params),
    key=key,
  )
