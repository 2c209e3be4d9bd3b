"""Spectra, preconditioners and alignment against dense matrices and numpy."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import absltest, parameterized
from jax.flatten_util import ravel_pytree

from induction_jax import spectra, tasks
from induction_jax.config import ModelConfig, TaskConfig
from induction_jax.model import losses, make_model
from induction_jax.spectra.eigenpairs import ROUNDING_UNITS
from induction_jax.training.step import make_loss
from tests.tiny import NO_CHAINS

TASK = TaskConfig("repeats", 7, 10, 2, 4, 0, 2, *NO_CHAINS)
MODEL = ModelConfig(1, 2, 4, 0, "rotary", "layernorm", True)
SEEDS = (0, 1, 2)
K = 10


# One small network, and its Hessian as a dense float64 matrix.


@functools.cache
def _network() -> tuple:
  model = make_model(MODEL, TASK.vocab_size, TASK.seq_length)
  weights = losses.make_weights("predictable")
  batch = tasks.make_sampler(TASK, 6)(jax.random.key(0))
  # Micro-batches of two with unequal weights, one of them zero.
  mask = batch.predictable.at[2:4].set(False).at[0].set(False)
  batch = jax.device_get(batch._replace(predictable=mask))
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  return make_loss(model, weights), weights, batch, shapes


def _params(seed: int, dtype: type) -> dict:
  """Random parameters, representable in float32, as `dtype`."""
  rng = np.random.default_rng(seed)
  shapes = _network()[3]
  return {
    name: rng.normal(0.1, 0.6, shapes[name].shape)
    .astype(np.float32)
    .astype(dtype)
    for name in sorted(shapes)
  }


def _data(size: int, dtype: type) -> spectra.MicroBatches:
  _, weights, batch, _ = _network()
  counts = np.asarray(weights(batch).sum(axis=1)).astype(dtype)
  data = spectra.split_batch(batch, jnp.asarray(counts), size)
  return data._replace(weights=np.asarray(data.weights, dtype))


@functools.cache
def _dense(seed: int) -> np.ndarray:
  """The Hessian of the loss of the batch, without micro-batches."""
  with jax.enable_x64(True):
    return np.asarray(_dense_hessian()(_params(seed, np.float64)))


@functools.cache
def _dense_hessian():
  loss, _, batch, _ = _network()

  def hessian(params):
    flat, unravel = ravel_pytree(params)
    return jax.hessian(lambda x: loss(unravel(x), batch))(flat)

  return jax.jit(hessian)


@functools.cache
def _lanczos():
  loss = _network()[0]

  def run(params, data, key, tolerance):
    return spectra.lanczos(
      spectra.hessian(loss, params, data),
      params,
      key,
      k_top=K,
      k_bottom=K,
      max_order=150,
      tolerance=tolerance,
    )

  return jax.jit(run)


@functools.cache
def _lanczos_and_rounding():
  loss = _network()[0]

  def run(params, data):
    spectrum = spectra.lanczos(
      spectra.hessian(loss, params, data),
      params,
      jax.random.key(1),
      k_top=K,
      k_bottom=K,
      max_order=150,
      tolerance=1e-3,
    )
    return spectrum, spectra.rounding_error(
      spectra.extremes(spectrum),
      lambda params: spectra.hessian(loss, params, data),
      params,
      jax.random.key(9),
    )

  return jax.jit(run)


@functools.cache
def _spectrum(seed: int, dtype: type, tolerance: float) -> spectra.Spectrum:
  with jax.enable_x64(dtype is np.float64):
    return jax.device_get(
      _lanczos()(
        _params(seed, dtype),
        _data(2, dtype),
        jax.random.key(seed),
        tolerance,
      )
    )


def _rows(vectors: dict) -> np.ndarray:  # [k, P], float64
  return np.concatenate(
    [
      np.asarray(vectors[name], np.float64).reshape(len(vectors[name]), -1)
      for name in sorted(vectors)
    ],
    axis=1,
  )


def _true_residuals(matrix: np.ndarray, pairs) -> np.ndarray:
  v = _rows(pairs.vectors)
  return np.linalg.norm(
    v @ matrix - np.asarray(pairs.values, np.float64)[:, None] * v, axis=1
  )


@pytest.mark.slow
class NetworkTest(parameterized.TestCase):
  @parameterized.product(
    dtype_tolerance=((np.float64, 1e-9, 1e-5), (np.float32, 1e-5, 1e-3)),
    seed=SEEDS[:2],
  )
  def test_both_ends_equal_dense(self, dtype_tolerance, seed):
    dtype, tolerance, allowed = dtype_tolerance
    spectrum = _spectrum(seed, dtype, tolerance)
    values = np.linalg.eigvalsh(_dense(seed))
    self.assertLess(values[0], 0)
    np.testing.assert_allclose(
      spectrum.top.values, values[::-1][:K], rtol=allowed
    )
    np.testing.assert_allclose(spectrum.bottom.values, values[:K], rtol=allowed)
    self.assertTrue(np.all(spectrum.top.converged))
    np.testing.assert_allclose(
      spectrum.norm, np.abs(values).max(), rtol=allowed
    )
    self.assertEqual(spectrum.top.values.dtype, dtype)
    self.assertBetween(int(spectrum.products), 2 * K, 150)

  @parameterized.product(
    seed=SEEDS,
    dtype_tolerance=(
      (np.float32, 1e-2),
      (np.float32, 1e-5),
      (np.float64, 1e-9),
    ),
  )
  def test_every_residual_bound_is_true(self, seed, dtype_tolerance):
    dtype, tolerance = dtype_tolerance
    spectrum = _spectrum(seed, dtype, tolerance)
    matrix = _dense(seed)
    unit = np.finfo(dtype).eps * np.abs(np.linalg.eigvalsh(matrix)).max()
    values = np.linalg.eigvalsh(matrix)
    for pairs in (spectrum.top, spectrum.bottom):
      true = _true_residuals(matrix, pairs)
      np.testing.assert_array_less(true, pairs.residuals)
      # The recurrence does not account for the rounding of products.
      known = pairs.residuals - ROUNDING_UNITS * unit
      excess = (true - known) / unit
      self.assertLess(excess.max(), ROUNDING_UNITS)
      # A useless bound would hold as well.
      self.assertLess(pairs.residuals.max(), 0.02 * np.abs(values).max())
      distance = np.abs(values - np.asarray(pairs.values)[:, None]).min(axis=1)
      self.assertTrue(np.all(distance <= pairs.residuals))
      flags = pairs.residuals <= tolerance * np.abs(pairs.values)
      self.assertTrue(np.all(pairs.converged >= flags))

  @parameterized.parameters(
    *((scale, seed) for scale in (1.0, 2.0, 4.0) for seed in range(4))
  )
  def test_measured_rounding_makes_every_bound_true(self, scale, seed):
    # Large weights, where the softmax cancels and no constant bounds rounding.
    params = jax.tree.map(lambda x: scale * x, _params(seed, np.float32))
    plain, rounding = jax.device_get(
      _lanczos_and_rounding()(params, _data(2, np.float32))
    )
    widened = spectra.add_rounding(plain, rounding, 1e-3)
    with jax.enable_x64(True):
      matrix = np.asarray(
        _dense_hessian()(jax.tree.map(lambda x: x.astype(np.float64), params))
      )
    norm = np.abs(np.linalg.eigvalsh(matrix)).max()
    for before, after in (
      (plain.top, widened.top),
      (plain.bottom, widened.bottom),
    ):
      true = _true_residuals(matrix, after)
      np.testing.assert_array_less(true, after.residuals)
      known = before.residuals + rounding
      np.testing.assert_allclose(after.residuals, known, rtol=1e-6)
      self.assertFalse(np.any(after.converged & ~before.converged))
    self.assertLess(rounding, 0.05 * norm)  # or it would be useless
    self.assertEqual(int(widened.products), int(plain.products) + 4)

  def test_no_constant_bounds_the_rounding(self):
    # The reason to measure it: otherwise ROUNDING_UNITS would suffice.
    params = jax.tree.map(lambda x: 4 * x, _params(0, np.float32))
    plain, _ = jax.device_get(
      _lanczos_and_rounding()(params, _data(2, np.float32))
    )
    with jax.enable_x64(True):
      matrix = np.asarray(
        _dense_hessian()(jax.tree.map(lambda x: x.astype(np.float64), params))
      )
    true = _true_residuals(matrix, plain.top)
    self.assertTrue(np.any(true > plain.top.residuals))

  @parameterized.parameters((np.float32, 1e-2, 1e-5), (np.float64, 1e-9, 1e-12))
  def test_vectors_are_orthonormal(self, dtype, tolerance, allowed):
    spectrum = _spectrum(0, dtype, tolerance)
    v = np.concatenate(
      [_rows(spectrum.top.vectors), _rows(spectrum.bottom.vectors)]
    )
    np.testing.assert_allclose(v @ v.T, np.eye(2 * K), atol=allowed)


class OperatorTest(parameterized.TestCase):
  def test_streamed_linearized_and_dense_agree(self):
    loss = _network()[0]
    with jax.enable_x64(True):
      params, data = _params(0, np.float64), _data(2, np.float64)
      flat, unravel = ravel_pytree(params)
      v = unravel(np.random.default_rng(1).normal(size=flat.size))
      linearized = jax.jit(
        lambda p, d: spectra.linearize(spectra.hessian(loss, p, d), p)
      )(params, data)
      products = [
        jax.jit(lambda p, d, v: spectra.hessian(loss, p, d)(v))(
          params, data, v
        ),
        jax.jit(lambda operator, v: operator(v))(linearized, v),
      ]
      expected = _dense(0) @ np.asarray(ravel_pytree(v)[0])
      for product in products:
        np.testing.assert_allclose(
          ravel_pytree(product)[0], expected, rtol=1e-9, atol=1e-11
        )

  def test_accumulated_gradient_equals_gradient_of_batch(self):
    loss, _, batch, _ = _network()
    with jax.enable_x64(True):
      params = _params(0, np.float64)
      got = jax.jit(lambda p, d: spectra.gradient(loss, p, d))(
        params, _data(1, np.float64)
      )
      expected = jax.jit(jax.grad(loss))(params, batch)
      self.assertGreater(float(optax.tree.norm(expected)), 0.01)
      chex.assert_trees_all_close(got, expected, rtol=1e-10, atol=1e-13)

  def test_split_batch(self):
    batch = {"x": np.arange(12).reshape(6, 2), "y": np.arange(6)}
    data = spectra.split_batch(batch, jnp.array([1.0, 2, 0, 0, 3, 4]), 2)
    np.testing.assert_array_equal(data.batches["x"][1], [[4, 5], [6, 7]])
    np.testing.assert_array_equal(data.batches["y"], [[0, 1], [2, 3], [4, 5]])
    np.testing.assert_allclose(data.weights, [0.3, 0.0, 0.7], rtol=1e-6)
    with self.assertRaisesRegex(ValueError, "size=4, examples=6"):
      spectra.split_batch(batch, jnp.ones(6), 4)

  def test_rescale(self):
    rng = np.random.default_rng(0)
    a = rng.normal(size=(5, 5)).astype(np.float32)
    a = a + a.T
    scale = {"u": jnp.array([1.0, 2.0]), "w": jnp.array([0.5, 3.0, 4.0])}

    def operator(v):
      x = jnp.asarray(a) @ jnp.concatenate([v["u"], v["w"]])
      return {"u": x[:2], "w": x[2:]}

    rescaled = spectra.rescale(operator, scale)
    matrix = np.stack(
      [
        ravel_pytree(
          rescaled({"u": jnp.asarray(row[:2]), "w": jnp.asarray(row[2:])})
        )[0]
        for row in np.eye(5, dtype=np.float32)
      ]
    )
    d = np.array([1, 2, 0.5, 3, 4])
    np.testing.assert_allclose(matrix, d[:, None] * a * d, rtol=1e-6)
    np.testing.assert_array_equal(matrix, matrix.T)


class PreconditionerTest(parameterized.TestCase):
  @parameterized.parameters("adam", "adamw", "clipped", "scheduled", "traced")
  def test_equals_numpy(self, name):
    b1, b2, eps = 0.8, 0.95, 1e-2
    arguments = dict(b1=b1, b2=b2, eps=eps)
    rate = optax.linear_schedule(0.1, 0.05, 10)
    tx, limit = {
      "adam": (optax.adam(0.1, **arguments), math.inf),
      "adamw": (optax.adamw(0.1, weight_decay=0.1, **arguments), math.inf),
      "clipped": (
        optax.chain(
          optax.clip_by_global_norm(0.7), optax.adamw(rate, **arguments)
        ),
        0.7,
      ),
      "scheduled": (optax.adam(rate, **arguments), math.inf),
      # The state has two counts, the schedule's before Adam's.
      "traced": (
        optax.chain(
          optax.scale_by_schedule(lambda _: 1.0), optax.adam(rate, **arguments)
        ),
        math.inf,
      ),
    }[name]
    rng = np.random.default_rng(0)
    params = {"a": jnp.ones(3), "b": jnp.ones((2, 2))}
    opt_state = tx.init(params)
    nu = np.zeros(7)
    for _ in range(4):
      g = rng.normal(size=7)
      tree = {
        "a": jnp.asarray(g[:3], jnp.float32),
        "b": jnp.asarray(g[3:].reshape(2, 2), jnp.float32),
      }
      _, opt_state = tx.update(tree, opt_state, params)
      g = g * min(1.0, limit / np.linalg.norm(g))
      nu = b2 * nu + (1 - b2) * g**2
    got = spectra.adam_preconditioner(opt_state, 0.1, **arguments)
    p = (1 - b1**4) * (np.sqrt(nu / (1 - b2**4)) + eps)
    np.testing.assert_allclose(
      ravel_pytree(got.inverse_sqrt)[0], p**-0.5, rtol=1e-5
    )

  def test_edges(self):
    params = {"a": jnp.ones(3)}
    tx = optax.adam(0.1)
    _, opt_state = tx.update(params, tx.init(params), params)
    adam = spectra.adam_preconditioner(opt_state, 0.01, 0.9, 0.999, 1e-8)
    np.testing.assert_allclose(adam.edge, 3800, rtol=1e-5)
    sgd = spectra.sgd_preconditioner(params, 0.01, 0.0)
    np.testing.assert_allclose(sgd.edge, 200, rtol=1e-6)
    np.testing.assert_array_equal(sgd.inverse_sqrt["a"], np.ones(3))

  @parameterized.parameters("adam", "sgd", "heavy_ball")
  def test_unstable_just_above_the_edge(self, name):
    # Runs the optimiser itself on a quadratic with curvature h p in each
    # direction, with Adam's nu fixed at p^2 late enough for no bias correction.
    rate, p = 0.05, np.array([0.5, 2.0])
    b = {"adam": 0.9, "sgd": 0.0, "heavy_ball": 0.6}[name]
    if name == "adam":
      state = optax.ScaleByAdamState(
        count=jnp.asarray(100_000, jnp.int32),
        mu=jnp.zeros(2),
        nu=jnp.asarray(p**2, jnp.float32),
      )
      made = spectra.adam_preconditioner(state, rate, b, 0.999, 1e-12)
    else:
      made = spectra.sgd_preconditioner(jnp.zeros(2), rate, b)
    inverse = np.asarray(made.inverse_sqrt, np.float64) ** 2
    dampened = 1 - b if name == "adam" else 1.0
    for factor, grows in ((0.98, False), (1.02, True)):
      # The eigenvalue of P^{-1/2} H P^{-1/2} is `factor` of the edge.
      h = factor * float(made.edge) / inverse
      x, m = np.ones(2), np.zeros(2)
      for _ in range(3000):
        m = b * m + dampened * h * x
        x = x - rate * inverse * m
        if np.abs(x).max() > 1e6:
          break
      for size in np.abs(x):
        if grows:
          self.assertGreater(size, 1e3)
        else:
          self.assertLess(size, 1e-3)


class SubspacesTest(parameterized.TestCase):
  def _basis(self, seed: int, k: int, size: int) -> dict:
    rng = np.random.default_rng(seed)
    q = np.linalg.qr(rng.normal(size=(size, size)))[0][:k]
    q = q.astype(np.float32)
    return {
      "a": jnp.asarray(q[:, :4].reshape(k, 2, 2)),
      "b": jnp.asarray(q[:, 4:]),
    }

  def test_alignment(self):
    basis = self._basis(0, 12, 12)
    rng = np.random.default_rng(1)
    x = rng.normal(size=12).astype(np.float32)
    vector = {"a": jnp.asarray(x[:4].reshape(2, 2)), "b": jnp.asarray(x[4:])}
    got = spectra.alignment(vector, basis)
    self.assertEqual(got.shape, (12,))
    expected = (_rows(basis) @ x) ** 2 / (x @ x)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(got.sum(), 1, rtol=1e-5)
    # The third basis vector, whose length and sign must not matter.
    third = jax.tree.map(lambda x: -7 * x[2], basis)
    np.testing.assert_allclose(
      spectra.alignment(third, basis), np.eye(12)[2], atol=1e-5
    )

  def test_overlap(self):
    basis = self._basis(0, 6, 12)
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0]
    first = jax.tree.map(lambda x: x[:3], basis)
    last = jax.tree.map(lambda x: x[3:], basis)
    turned = jax.tree.map(
      lambda x: jnp.asarray(np.tensordot(turn, np.asarray(x), 1), jnp.float32),
      first,
    )
    self.assertAlmostEqual(float(spectra.overlap(first, turned)), 1, places=5)
    self.assertAlmostEqual(float(spectra.overlap(first, last)), 0, places=5)
    mixed = jax.tree.map(lambda x: x[jnp.array([0, 4, 5])], basis)
    self.assertAlmostEqual(
      float(spectra.overlap(first, mixed)), 1 / 3, places=5
    )

  def test_overlap_of_random_spaces(self):
    values = [
      float(
        spectra.overlap(self._basis(s, 4, 24), self._basis(1000 + s, 4, 24))
      )
      for s in range(200)
    ]
    error = np.std(values) / 200**0.5
    self.assertLess(abs(np.mean(values) - 4 / 24), 4 * error)
    self.assertLess(error, 0.005)


if __name__ == "__main__":
  absltest.main()
