"""The train step, and many of them as one program."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from induction_jax.losses import mean_over, token_losses
from induction_jax.model import Model
from induction_jax.state import TrainState, stream
from induction_jax.types import Array, Batch, Params, Sampler

Loss = Callable[[Params, Batch], Array]


class StepMetrics(NamedTuple):
  """What one update saw: its training loss (nats) and gradient norm."""

  loss: Array
  grad_norm: Array


class ChunkMetrics(NamedTuple):
  """A chunk of updates: means over its steps, and where it first failed."""

  mean: StepMetrics
  first_bad_step: Array  # the first with a non-finite number, -1 if none


TrainStep = Callable[[TrainState], tuple[TrainState, StepMetrics]]
TrainChunk = Callable[[TrainState, Array], tuple[TrainState, ChunkMetrics]]


def make_loss(model: Model, weights: Callable[[Batch], Array]) -> Loss:
  """Mean cross-entropy (nats) over the tokens that count.

  Args:
    model: the network.
    weights: which tokens count, from losses.make_weights.
  """

  def loss(params: Params, batch: Batch) -> Array:
    logits, _ = model.apply(params, batch.tokens)
    return mean_over(token_losses(logits, batch.targets), weights(batch))

  return loss


def make_train_step(
  loss: Loss, sample: Sampler, tx: optax.GradientTransformation
) -> TrainStep:
  """One update, pure: the batch is a function of (state.key, state.step).

  A `tx` that takes extra arguments gets the run's key, as `key`.
  """
  tx = optax.with_extra_args_support(tx)

  def train_step(state: TrainState) -> tuple[TrainState, StepMetrics]:
    key = jax.random.fold_in(stream(state.key, "train"), state.step)
    batch = sample(key)
    value, grad = jax.value_and_grad(loss)(state.params, batch)
    updates, opt_state = tx.update(
      grad, state.opt_state, state.params, key=state.key
    )
    new_state = state._replace(
      step=state.step + 1,
      params=optax.apply_updates(state.params, updates),
      opt_state=opt_state,
    )
    return new_state, StepMetrics(value, optax.tree.norm(grad))

  return train_step


def make_train_chunk(train_step: TrainStep) -> TrainChunk:
  """Many updates as one loop on the device.

  The number of steps (at least 1) is an argument, not a shape: a run is one
  compiled program however its chunks fall, so its bits cannot depend on where
  it was measured, stopped or resumed.
  """

  def train_chunk(
    state: TrainState, num_steps: Array
  ) -> tuple[TrainState, ChunkMetrics]:
    def body(_, carry):
      state, total, bad = carry
      new_state, metrics = train_step(state)
      sizes = (*metrics, optax.tree.norm(new_state.params))
      finite = jnp.all(jnp.isfinite(jnp.stack(sizes)))
      bad = jnp.where((bad < 0) & ~finite, state.step, bad)
      return new_state, jax.tree.map(jnp.add, total, metrics), bad

    zero = StepMetrics(jnp.zeros(()), jnp.zeros(()))
    carry = (state, zero, jnp.full((), -1, jnp.int32))
    state, total, bad = jax.lax.fori_loop(0, num_steps, body, carry)
    mean = jax.tree.map(lambda x: x / num_steps, total)
    return state, ChunkMetrics(mean, bad)

  return train_chunk
