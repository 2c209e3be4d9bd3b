"""The training state: a pytree of arrays, nothing else."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from induction_jax.model import Model
from induction_jax.types import Array, Key, Params, PyTree

STREAMS = (
  "params",
  "train",
  "induction",
  "behaviour",
  "circuits",
  "spectra",
)


class TrainState(NamedTuple):
  """Everything that training changes, and the key of all that is random.

  `key` never changes: the batch of a step is a pure function of (key, step),
  and a held-out batch one of the key alone.
  """

  step: Array  # int32 scalar, updates done
  params: Params
  opt_state: PyTree
  key: Key


def stream(key: Key, name: str) -> Key:
  """The key of one of STREAMS, so that no measurement touches training."""
  return jax.random.fold_in(key, STREAMS.index(name))


def init_state(
  model: Model, tx: optax.GradientTransformation, key: Key
) -> TrainState:
  """The state at step 0 of the run with this key."""
  params = model.init(stream(key, "params"))
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    opt_state=tx.init(params),
    key=key,
  )
