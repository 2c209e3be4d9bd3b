"""The optimiser, the losses and the train step, against numpy."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized

from configs import base
from induction_jax import tasks
from induction_jax.config import (
  ModelConfig,
  OptimConfig,
  TaskConfig,
  make_config,
)
from induction_jax.model import losses, make_model
from induction_jax.training import memory, optimizer
from induction_jax.training.state import STREAMS, TrainState, init_state, stream
from induction_jax.training.step import (
  make_gradient,
  make_loss,
  make_train_chunk,
  make_train_step,
  no_updates,
)
from induction_jax.types import Batch
from tests.tiny import NO_CHAINS

TASK = TaskConfig("repeats", 9, 16, 2, 5, 0, 3, *NO_CHAINS)
MODEL = ModelConfig(2, 2, 8, 0, "rotary", "layernorm", False)


def _optim(**changes: object) -> OptimConfig:
  values = dict(
    name="adamw",
    learning_rate=0.1,
    schedule="constant",
    warmup_steps=0,
    b1=0.8,
    b2=0.95,
    eps=1e-3,
    weight_decay=0.05,
    momentum=0.7,
    clip_norm=0.0,
  )
  return OptimConfig(**{**values, **changes})


@functools.cache
def _tiny() -> tuple:
  """A tiny run: its first state, its step and its chunk, both jitted."""
  model = make_model(MODEL, TASK.vocab_size, TASK.seq_length)
  tx = optimizer.make_optimizer(_optim(learning_rate=0.01), 10)
  loss = make_loss(model, losses.make_weights("all"))
  step = make_train_step(
    jax.value_and_grad(loss), tasks.make_sampler(TASK, 4), tx
  )
  state = init_state(model, tx, jax.random.key(0))
  return state, jax.jit(step), jax.jit(make_train_chunk(step))


def _as_bits(state: TrainState) -> list[bytes]:
  plain = state._replace(key=jax.random.key_data(state.key))
  return [np.asarray(x).tobytes() for x in jax.tree.leaves(plain)]


# Loss and gradient norm of the first three steps. They change where the data,
# the initialisation, the network, the loss or the optimiser does.
GOLDEN = [
  (2.7297599, 1.8429878),
  (2.4339054, 1.8253056),
  (2.7697220, 1.8367210),
]


class GoldenTest(absltest.TestCase):
  def test_three_steps(self):
    state, step, _ = _tiny()
    seen = []
    for _ in range(3):
      state, metrics = step(state)
      seen.append((float(metrics.loss), float(metrics.grad_norm)))
    np.testing.assert_allclose(seen, GOLDEN, rtol=2e-5)
    self.assertEqual(int(state.step), 3)


class ChunkTest(absltest.TestCase):
  def test_equals_single_steps(self):
    state, step, chunk = _tiny()
    after, metrics = chunk(state, 5)
    seen = []
    for _ in range(5):
      state, one = step(state)
      seen.append(jax.device_get(one))
    for name in ("loss", "grad_norm"):
      expected = np.mean([getattr(one, name) for one in seen])
      np.testing.assert_allclose(
        getattr(metrics.mean, name), expected, rtol=1e-5
      )
    self.assertGreater(np.ptp([one.loss for one in seen]), 1e-3)
    self.assertEqual(int(after.step), 5)
    self.assertEqual(int(metrics.first_bad_step), -1)
    chex.assert_trees_all_close(
      after.params, state.params, rtol=1e-4, atol=1e-5
    )

  def test_bits_do_not_depend_on_the_cut(self):
    state, _, chunk = _tiny()
    whole, expected = chunk(state, 7, no_updates(state.step))
    part, sums = chunk(state, 3, no_updates(state.step))
    part, sums = chunk(part, 4, sums)
    self.assertEqual(_as_bits(part), _as_bits(whole))
    chex.assert_trees_all_equal(sums, expected)
    self.assertNotEqual(_as_bits(whole), _as_bits(state))

  def test_every_step_has_a_batch_of_its_own(self):
    state, step, _ = _tiny()
    still = state
    losses_seen = []
    for i in range(3):
      _, metrics = step(still._replace(step=jnp.asarray(i, jnp.int32)))
      losses_seen.append(float(metrics.loss))
    self.assertLen(set(losses_seen), 3)


class MicroBatchTest(parameterized.TestCase):
  def test_gradient_is_that_of_the_whole_batch(self):
    # Sequences with different numbers of tokens that count, one with none.
    model = make_model(MODEL, TASK.vocab_size, TASK.seq_length)
    weights = losses.make_weights("predictable")
    loss = make_loss(model, weights)
    params = jax.jit(model.init)(jax.random.key(0))
    batch = jax.jit(tasks.make_sampler(TASK, 4))(jax.random.key(1))
    counts = np.array([3, 0, 11, 6])
    predictable = np.arange(TASK.seq_length)[None] < counts[:, None]
    batch = batch._replace(predictable=jnp.asarray(predictable))
    whole, halves, ones = (
      jax.jit(make_gradient(loss, weights, size))(params, batch)
      for size in (4, 2, 1)
    )
    self.assertGreater(float(optax.tree.norm(whole[1])), 0.1)
    for part in (halves, ones):
      chex.assert_trees_all_close(part, whole, rtol=1e-4, atol=1e-6)

  @parameterized.parameters(
    # batch, asked, heads, length, platform, micro-batch
    (64, 0, 8, 256, "cpu", 4),
    (32, 0, 4, 64, "cpu", 32),
    (6, 0, 8, 256, "cpu", 3),
    (7, 0, 8, 256, "cpu", 1),
    (4, 0, 8, 1024, "cpu", 1),
    (64, 0, 8, 256, "gpu", 64),
    (64, 16, 8, 256, "cpu", 16),
    (64, 16, 8, 256, "gpu", 16),
  )
  def test_plan(self, batch, asked, heads, length, platform, expected):
    values = base.get_config()
    values.train.batch_size, values.train.micro_batch_size = batch, asked
    values.model.n_heads, values.task.seq_length = heads, length
    config = make_config(values.to_dict())
    self.assertEqual(memory.plan_micro_batch(config, platform), expected)


class NonFiniteTest(parameterized.TestCase):
  @parameterized.parameters(
    # where the trouble is, first step and length of the chunk, what is said
    ("loss", 0, 7, 3),
    ("loss", 2, 5, 3),
    ("loss", 3, 1, 3),
    ("loss", 0, 3, -1),
    ("loss", 4, 3, -1),
    ("gradient", 0, 7, 3),
    ("gradient", 0, 3, -1),
  )
  def test_first_bad_step(self, where, start, length, expected):
    state, chunk = _troubled(where)
    state = state._replace(step=jnp.asarray(start, jnp.int32))
    after, metrics = chunk(state, length)
    self.assertEqual(int(metrics.first_bad_step), expected)
    # The state stays the last good one.
    made = length if expected < 0 else expected - start
    self.assertEqual(int(after.step), start + made)
    self.assertEqual(int(metrics.steps), made)
    chex.assert_tree_all_finite((after.params, metrics.total))


@functools.cache
def _troubled(where: str) -> tuple:
  """A run whose batch at step 3 gives a loss or a gradient of nan."""
  key = jax.random.key(0)
  bad = jax.random.uniform(jax.random.fold_in(stream(key, "train"), 3))

  def loss(x, draw):
    if where == "loss":
      return jnp.sum(x**2) + jnp.where(draw == bad, jnp.nan, 0.0)
    # Finite at zero, its derivative is not.
    return jnp.sum(x**2) + jnp.sqrt(
      jnp.where(draw == bad, 0.0, 1.0) * x[0] ** 2
    )

  tx = optax.sgd(0.01)
  params = jnp.ones(2)
  state = TrainState(jnp.zeros((), jnp.int32), params, tx.init(params), key)
  step = make_train_step(jax.value_and_grad(loss), jax.random.uniform, tx)
  return state, jax.jit(make_train_chunk(step))


CURVATURE = np.array([3.0, 1.0, 0.2])
START = np.array([1.0, -2.0, 0.5])


def _rate(config: OptimConfig, t: int, num_steps: int) -> float:
  if t < config.warmup_steps:
    return config.learning_rate * t / config.warmup_steps
  if config.schedule == "constant":
    return config.learning_rate
  done = (t - config.warmup_steps) / (num_steps - config.warmup_steps)
  return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def _descend(config: OptimConfig, num_steps: int) -> tuple:
  """The textbook updates on x . diag(CURVATURE) x / 2, and gradient norms."""
  x, m, v = START.copy(), np.zeros(3), np.zeros(3)
  norms = []
  for t in range(num_steps):
    g = CURVATURE * x
    norms.append(np.sqrt(np.sum(g**2)))
    if config.clip_norm and norms[-1] > config.clip_norm:
      g = g * config.clip_norm / norms[-1]
    rate = _rate(config, t, num_steps)
    if config.name == "sgd":
      m = config.momentum * m + g
      x = x - rate * m
      continue
    m = config.b1 * m + (1 - config.b1) * g
    v = config.b2 * v + (1 - config.b2) * g**2
    first = m / (1 - config.b1 ** (t + 1))
    second = v / (1 - config.b2 ** (t + 1))
    decay = config.weight_decay if config.name == "adamw" else 0.0
    x = x - rate * (first / (np.sqrt(second) + config.eps) + decay * x)
  return x, norms


class OptimizerTest(parameterized.TestCase):
  @parameterized.product(
    name=("adamw", "adam", "sgd"),
    rest=(
      dict(),
      dict(schedule="cosine", warmup_steps=3, clip_norm=1.5),
    ),
  )
  def test_equals_textbook(self, name, rest):
    self._check(_optim(name=name, **rest))

  @parameterized.parameters(
    dict(name="sgd", momentum=0.0, schedule="cosine"),
    dict(name="sgd", warmup_steps=4),
    dict(name="adamw", weight_decay=0.0, b1=0.0, clip_norm=0.3),
  )
  def test_more(self, **changes):
    self._check(_optim(**changes))

  def _check(self, config: OptimConfig) -> None:
    num_steps = 8
    tx = optimizer.make_optimizer(config, num_steps)

    def loss(params, _):
      x = jnp.concatenate([params["a"], params["b"]])
      return 0.5 * jnp.sum(jnp.asarray(CURVATURE, jnp.float32) * x**2)

    params = {
      "a": jnp.asarray(START[:1], jnp.float32),
      "b": jnp.asarray(START[1:], jnp.float32),
    }
    state = TrainState(
      jnp.zeros((), jnp.int32), params, tx.init(params), jax.random.key(0)
    )
    step = jax.jit(
      make_train_step(jax.value_and_grad(loss), jax.random.uniform, tx)
    )
    norms = []
    for _ in range(num_steps):
      state, metrics = step(state)
      norms.append(float(metrics.grad_norm))
    expected, expected_norms = _descend(config, num_steps)
    got = np.concatenate([state.params["a"], state.params["b"]])
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    # The norm reported is the gradient's, before clipping.
    np.testing.assert_allclose(norms, expected_norms, rtol=1e-4)

  @parameterized.product(
    schedule=("constant", "cosine"), warmup_steps=(0, 1, 5)
  )
  def test_schedule(self, schedule, warmup_steps):
    config = _optim(schedule=schedule, warmup_steps=warmup_steps)
    rate = optimizer.make_schedule(config, 12)
    got = [float(rate(t)) for t in range(13)]
    expected = [_rate(config, t, 12) for t in range(13)]
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-8)


def _batch() -> tuple[np.ndarray, Batch]:
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(3, 4, 5)).astype(np.float32)
  targets = rng.integers(0, 5, (3, 4)).astype(np.int32)
  targets[0] = logits[0].argmax(-1)  # some hits
  predictable = np.zeros((3, 4), bool)
  predictable[0, 1:] = predictable[2, 3] = True
  return logits, Batch(jnp.zeros((3, 4), jnp.int32), targets, predictable)


class LossesTest(chex.TestCase):
  @chex.variants(with_jit=True, without_jit=True)
  def test_evaluate_equals_loops(self):
    logits, batch = _batch()
    sums = {name: [] for name in ("pattern", "random")}
    for b in range(3):
      for t in range(4):
        row = [math.exp(x) for x in logits[b, t]]
        loss = -math.log(row[batch.targets[b, t]] / sum(row))
        hit = float(max(row) == row[batch.targets[b, t]])
        kind = "pattern" if batch.predictable[b, t] else "random"
        sums[kind].append((loss, hit))
    got = self.variant(losses.evaluate)(jnp.asarray(logits), batch)
    self.assertCountEqual(
      got,
      ["pattern_loss", "pattern_accuracy", "random_loss", "random_accuracy"],
    )
    accuracies = [np.mean(seen, axis=0)[1] for seen in sums.values()]
    self.assertGreater(abs(accuracies[0] - accuracies[1]), 0.1)
    for kind, seen in sums.items():
      loss, accuracy = np.mean(seen, axis=0)
      self.assertBetween(accuracy, 0.1, 0.9)
      np.testing.assert_allclose(got[f"{kind}_loss"], loss, rtol=1e-5)
      np.testing.assert_allclose(got[f"{kind}_accuracy"], accuracy, rtol=1e-6)

  @chex.variants(with_jit=True, without_jit=True)
  def test_mean_over(self):
    mean_over = self.variant(losses.mean_over)
    values = jnp.array([[1.0, 2.0], [4.0, 8.0]])
    weights = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    self.assertEqual(float(mean_over(values, weights)), 4.5)
    self.assertEqual(float(mean_over(values, 0.25 * weights)), 4.5)
    self.assertEqual(float(mean_over(values, 0 * weights)), 0.0)
    grad = jax.grad(lambda v: losses.mean_over(v, 0 * weights))(values)
    self.assertEqual(float(jnp.abs(grad).max()), 0.0)

  def test_loss_tokens(self):
    logits, batch = _batch()
    model = make_model(MODEL, 5, 4)._replace(
      predict=lambda params, tokens: params
    )
    each = np.array(
      [
        [
          np.log(np.exp(logits[b, t]).sum()) - logits[b, t, batch.targets[b, t]]
          for t in range(4)
        ]
        for b in range(3)
      ]
    )
    for name, expected in (
      ("all", each.mean()),
      ("predictable", each[batch.predictable].mean()),
    ):
      loss = make_loss(model, losses.make_weights(name))
      np.testing.assert_allclose(
        loss(jnp.asarray(logits), batch), expected, rtol=1e-5
      )
    self.assertGreater(abs(each.mean() - each[batch.predictable].mean()), 0.1)


class StateTest(absltest.TestCase):
  def test_streams_are_independent(self):
    draws = [
      float(jax.random.uniform(stream(jax.random.key(seed), name)))
      for seed in (0, 1)
      for name in STREAMS
    ]
    self.assertLen(set(draws), 2 * len(STREAMS))
    again = float(jax.random.uniform(stream(jax.random.key(0), STREAMS[0])))
    self.assertEqual(again, draws[0])

  def test_init_state(self):
    model = make_model(MODEL, 9, 16)
    key = jax.random.key(3)
    tx = optax.adam(0.1)
    state = jax.jit(lambda key: init_state(model, tx, key))(key)
    self.assertEqual((int(state.step), state.step.dtype), (0, jnp.int32))
    chex.assert_trees_all_equal(
      state.params,
      jax.jit(model.init)(stream(jax.random.key(3), "params")),
    )
    np.testing.assert_array_equal(
      jax.random.key_data(state.key), jax.random.key_data(key)
    )

  def test_batch_of_a_step(self):
    # A pure function of (key, step), from the stream of the training data.
    tx = optax.sgd(0.1)
    params = jnp.ones(1)
    state = TrainState(
      jnp.asarray(5, jnp.int32), params, tx.init(params), jax.random.key(2)
    )
    gradient = jax.value_and_grad(lambda x, draw: jnp.sum(x) * draw)
    step = make_train_step(gradient, jax.random.uniform, tx)
    seen = []
    for _ in range(2):
      state, metrics = step(state)
      seen.append(float(metrics.grad_norm))
    key = stream(jax.random.key(2), "train")
    expected = [
      float(jax.random.uniform(jax.random.fold_in(key, t))) for t in (5, 6)
    ]
    np.testing.assert_allclose(seen, expected, rtol=1e-6)


if __name__ == "__main__":
  absltest.main()
