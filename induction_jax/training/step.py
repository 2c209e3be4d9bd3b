"""The training step, and a chunk of many steps as one program."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from induction_jax import spectra
from induction_jax.model import Model
from induction_jax.model.losses import mean_over, token_losses
from induction_jax.training.state import TrainState, stream
from induction_jax.types import Array, Batch, Params, PyTree, Sampler

Loss = Callable[[Params, Batch], Array]
LossAndGradient = Callable[[Params, Batch], tuple[Array, Params]]


class StepMetrics(NamedTuple):
  """Training loss (nats) and gradient norm, both before the update."""

  loss: Array
  grad_norm: Array


class ChunkMetrics(NamedTuple):
  """Sums of metrics over a chunk of updates, and the step that diverged.

  A chunk may be computed in several pieces, where each piece continues the sums
  of the previous one. The result is the same, bit for bit, however it is cut.

  Attributes:
    total: sums over the updates.
    first_bad_step: the first step that produced a non-finite number, int32; -1
      if there is none.
    steps: number of updates in the sums, int32: those before `first_bad_step`.
  """

  total: StepMetrics
  first_bad_step: Array
  steps: Array

  @property
  def mean(self) -> StepMetrics:
    """Means over the updates of the chunk."""
    return jax.tree.map(lambda x: x / self.steps, self.total)


def no_updates(step: Array) -> ChunkMetrics:
  """Metrics of a chunk before its first update, sharded like `step`."""
  count = 0 * step
  zero = count.astype(jnp.float32)
  return ChunkMetrics(StepMetrics(zero, zero), count - 1, count)


TrainStep = Callable[[TrainState], tuple[TrainState, StepMetrics]]
# (state, number of updates, metrics so far) -> state and metrics after them.
TrainChunk = Callable[..., tuple[TrainState, ChunkMetrics]]


def make_loss(model: Model, weights: Callable[[Batch], Array]) -> Loss:
  """The training loss: mean cross-entropy (nats) over the tokens that count.

  Args:
    model: the network.
    weights: 1 for tokens that count and 0 for others, from losses.make_weights.
  """

  def loss(params: Params, batch: Batch) -> Array:
    logits = model.predict(params, batch.tokens)
    return mean_over(token_losses(logits, batch.targets), weights(batch))

  return loss


def make_gradient(
  loss: Loss,
  weights: Callable[[Batch], Array],
  micro_batch_size: int,
  place: Callable[[PyTree], PyTree] = lambda micro_batches: micro_batches,
) -> LossAndGradient:
  """The loss of a batch and its gradient, accumulated over micro-batches.

  Args:
    loss: a mean over the tokens that count.
    weights: 1 for tokens that count and 0 for others, from losses.make_weights.
    micro_batch_size: number of sequences; must divide the batch.
    place: adds sharding constraints to micro-batches [n, B, ...].
  """
  of_batch = jax.value_and_grad(loss)

  def gradient(params: Params, batch: Batch) -> tuple[Array, Params]:
    counts = jnp.sum(weights(batch), axis=1)  # [B]
    if micro_batch_size == counts.size:
      return of_batch(params, batch)

    def add(total: PyTree, micro: spectra.MicroBatches) -> tuple[PyTree, None]:
      term = of_batch(params, micro.batches)
      weighted = jax.tree.map(lambda x: micro.weights * x, term)
      return jax.tree.map(jnp.add, total, weighted), None

    zero = jnp.zeros(()), jax.tree.map(jnp.zeros_like, params)
    data = spectra.split_batch(batch, counts, micro_batch_size)
    data = data._replace(batches=place(data.batches))
    return jax.lax.scan(add, zero, data)[0]

  return gradient


def make_train_step(
  gradient: LossAndGradient, sample: Sampler, tx: optax.GradientTransformation
) -> TrainStep:
  """One update; the batch is a function of (state.key, state.step).

  Args:
    gradient: (params, batch) -> (loss, gradient), such as
      jax.value_and_grad(loss) or the result of make_gradient.
    sample: key -> batch.
    tx: the optimiser. If it takes extra arguments, the run's key is passed as
      `key`.
  """
  tx = optax.with_extra_args_support(tx)

  def train_step(state: TrainState) -> tuple[TrainState, StepMetrics]:
    key = jax.random.fold_in(stream(state.key, "train"), state.step)
    batch = sample(key)
    value, grad = gradient(state.params, batch)
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

  The number of steps (at least 0) is a traced argument, so that chunks of every
  length run the same compiled program. The bits of a run therefore do not
  depend on where it was measured, stopped or resumed.

  An update that produces a non-finite number is discarded, and so are those
  after it: the state remains the last finite one, from which the failing update
  can be repeated.
  """

  def train_chunk(
    state: TrainState, num_steps: Array, metrics: ChunkMetrics | None = None
  ) -> tuple[TrainState, ChunkMetrics]:
    metrics = no_updates(state.step) if metrics is None else metrics

    def body(_, carry):
      state, total, bad, steps = carry
      new_state, seen = train_step(state)
      sizes = (*seen, optax.tree.norm(new_state.params))
      good = (bad < 0) & jnp.all(jnp.isfinite(jnp.stack(sizes)))
      bad = jnp.where((bad < 0) & ~good, state.step, bad)
      new = (new_state[:3], jax.tree.map(jnp.add, total, seen), steps + 1)
      # All but the key, which never changes.
      new, total, steps = jax.tree.map(
        lambda new, old: jnp.where(good, new, old),
        new,
        (state[:3], total, steps),
      )
      step, params, opt_state = new
      return TrainState(step, params, opt_state, state.key), total, bad, steps

    state, *summed = jax.lax.fori_loop(0, num_steps, body, (state, *metrics))
    return state, ChunkMetrics(*summed)

  return train_chunk
