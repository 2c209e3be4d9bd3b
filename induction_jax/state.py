"""The training state: a pytree of arrays, nothing else."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from induction_jax.model import Model
from induction_jax.types import Array, Key, Params, PyTree


class TrainState(NamedTuple):
  """Everything that training changes, and the key of its data stream.

  `key` never changes: the batch of a step is a pure function of (key, step).
  """

  step: Array  # int32 scalar, updates done
  params: Params
  opt_state: PyTree
  key: Key


class Streams(NamedTuple):
  """Independent keys of one run, so that no measurement touches training."""

  params: Key
  train: Key
  behaviour: Key
  spectra: Key
  circuits: Key


def make_streams(seed: int) -> Streams:
  """The run's keys: numbered folds of one root key."""
  root = jax.random.key(seed)
  return Streams(
    *(jax.random.fold_in(root, i) for i in range(len(Streams._fields)))
  )


def init_state(
  model: Model, tx: optax.GradientTransformation, streams: Streams
) -> TrainState:
  """The state at step 0."""
  params = model.init(streams.params)
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    opt_state=tx.init(params),
    key=streams.train,
  )
