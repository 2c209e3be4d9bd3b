"""The train step, and many of them as one program."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from induction_jax import spectra
from induction_jax.config import Config
from induction_jax.model import Model
from induction_jax.model.losses import mean_over, token_losses
from induction_jax.training.state import TrainState, stream
from induction_jax.types import Array, Batch, Params, PyTree, Sampler

Loss = Callable[[Params, Batch], Array]
LossAndGradient = Callable[[Params, Batch], tuple[Array, Params]]

# What the scores of one layer may take on a CPU, so that they stay in its
# cache between the products that make and use them: in a step of training, and
# in measurements (Hessian products hold tangents as well).
TRAINING_BYTES, MEASURING_BYTES = 8 * 2**20, 4 * 2**20


class StepMetrics(NamedTuple):
  """What one update saw: its training loss (nats) and gradient norm."""

  loss: Array
  grad_norm: Array


class ChunkMetrics(NamedTuple):
  """Updates since the last record: sums over them, and where they failed.

  A chunk of updates may be made in pieces, each going on with the sums of the
  one before, with the same bits however it is cut.
  """

  total: StepMetrics
  first_bad_step: Array  # int32, the first with a non-finite number, -1 if none
  steps: Array  # int32, how many are summed up: those before `first_bad_step`

  @property
  def mean(self) -> StepMetrics:
    return jax.tree.map(lambda x: x / self.steps, self.total)


def no_updates(step: Array) -> ChunkMetrics:
  """The sums before the first update of a chunk, placed as `state.step` is."""
  count = 0 * step
  zero = count.astype(jnp.float32)
  return ChunkMetrics(StepMetrics(zero, zero), count - 1, count)


TrainStep = Callable[[TrainState], tuple[TrainState, StepMetrics]]
# (state, number of updates, sums so far) -> the same after them.
TrainChunk = Callable[..., tuple[TrainState, ChunkMetrics]]


def make_loss(model: Model, weights: Callable[[Batch], Array]) -> Loss:
  """Mean cross-entropy (nats) over the tokens that count.

  Args:
    model: the network.
    weights: which tokens count, from losses.make_weights.
  """

  def loss(params: Params, batch: Batch) -> Array:
    logits = model.predict(params, batch.tokens)
    return mean_over(token_losses(logits, batch.targets), weights(batch))

  return loss


def plan_micro_batch(config: Config, platform: str) -> int:
  """Sequences of a training batch that go through the network together.

  `train.micro_batch_size`, or what fits a cache where that is 0.
  """
  if config.train.micro_batch_size:
    return config.train.micro_batch_size
  return fit_cache(config, config.train.batch_size, platform, TRAINING_BYTES)


def fit_cache(config: Config, size: int, platform: str, room: int) -> int:
  """How many of `size` sequences are best worked on together.

  By shapes alone: on a CPU the largest divisor whose scores fit the room, in
  bytes, elsewhere all. Devices that share a batch take equal parts, each as
  much.
  """
  if platform != "cpu":
    return size
  devices = config.mesh.data
  each = 4 * config.model.n_heads * config.task.seq_length**2
  return max(
    n
    for n in range(devices, size + 1, devices)
    if size % n == 0 and (n == devices or n // devices * each <= room)
  )


def make_gradient(
  loss: Loss,
  weights: Callable[[Batch], Array],
  micro_batch_size: int,
  place: Callable[[PyTree], PyTree] = lambda micro_batches: micro_batches,
) -> LossAndGradient:
  """A batch's loss and gradient, a micro-batch at a time.

  Args:
    loss: a mean over the tokens that count.
    weights: which tokens count, from losses.make_weights.
    micro_batch_size: sequences; must divide the batch.
    place: says where the micro-batches [n, B, ...] are to lie.
  """
  whole = jax.value_and_grad(loss)

  def gradient(params: Params, batch: Batch) -> tuple[Array, Params]:
    counts = jnp.sum(weights(batch), axis=1)  # [B]
    if micro_batch_size == counts.size:
      return whole(params, batch)

    def add(total: PyTree, micro: spectra.MicroBatches) -> tuple[PyTree, None]:
      term = whole(params, micro.batches)
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
  """One update, pure: the batch is a function of (state.key, state.step).

  `gradient` may be jax.value_and_grad of a loss. A `tx` that takes extra
  arguments gets the run's key, as `key`.
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

  The number of steps (at least 0) is an argument, not a shape: a run is one
  compiled program however its chunks fall, so its bits cannot depend on where
  it was measured, stopped or resumed.

  An update that gives a number that is not finite is not made, nor is any
  after it: the state stays the last good one, from which it can be repeated.
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
      # Not the key, which never changes.
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
