"""Density, counts, trace and norm against the exact spectrum."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from induction_jax import spectra
from induction_jax.spectra.trace import mean_of

# A spectrum like a network's: nearly all of it close to zero, of both signs,
# and a few outliers. Reflections rotate it away from the axes, since probe
# vectors of random signs measure a diagonal matrix without error.

SIZE = 1000
OUTLIERS = (30.0, 12.0, 5.0, -8.0, -3.0)


def _eigenvalues() -> np.ndarray:
  rng = np.random.default_rng(0)
  size = 10.0 ** rng.uniform(-6, -1, SIZE - len(OUTLIERS))
  sign = np.where(rng.uniform(size=len(size)) < 0.45, -1, 1)
  return np.concatenate([OUTLIERS, sign * size])


def _reflections(size: int) -> np.ndarray:
  reflections = np.random.default_rng(1).normal(size=(6, size))
  return reflections / np.linalg.norm(reflections, axis=1, keepdims=True)


def _rotated(values, v):
  """R diag(values) R^T v, with R a product of reflections."""
  reflections = jnp.asarray(_reflections(len(values)), v.dtype)
  for u in reflections:
    v = v - 2 * u * jnp.dot(u, v, precision="highest")
  v = values * v
  for u in reflections[::-1]:
    v = v - 2 * u * jnp.dot(u, v, precision="highest")
  return v


@functools.partial(jax.jit, static_argnames=("order", "probes"))
def _rules(values, key, order=40, probes=20):
  return spectra.quadrature(
    lambda v: {"a": _rotated(values, v["a"])},
    {"a": values},
    key,
    order=order,
    probes=probes,
  )


@functools.cache
def _network_like() -> spectra.Quadrature:
  values = _eigenvalues().astype(np.float32)
  return jax.device_get(_rules(values, jax.random.key(0)))


@functools.partial(jax.jit, static_argnames=("order", "probes"))
def _diagonal_rules(values, key, order, probes=2):
  return spectra.quadrature(
    lambda v: values * v, values, key, order=order, probes=probes
  )


def _moment(rules, power):
  """Estimate of tr(A^power) / P; each rule is exact up to power 2 M - 1."""
  return mean_of(jnp.sum(rules.weights * rules.nodes**power, axis=1))


class QuadratureTest(parameterized.TestCase):
  def test_moments_are_exact_up_to_degree(self):
    # Random signs put equal weights on the eigenvalues of a diagonal matrix.
    values = np.random.default_rng(0).normal(size=40)
    with jax.enable_x64(True):
      rules = _diagonal_rules(values, jax.random.key(0), 6)
      for power in range(12):
        value, error = _moment(rules, power)
        np.testing.assert_allclose(value, np.mean(values**power), rtol=1e-10)
        self.assertLess(float(error), 1e-10 * max(1, float(value)))
      beyond = _moment(rules, 12).value
    self.assertNotAlmostEqual(float(beyond), np.mean(values**12), places=3)

  def test_all_nodes_are_the_spectrum(self):
    values = np.sort(np.random.default_rng(0).normal(size=12))
    with jax.enable_x64(True):
      rules = _diagonal_rules(values, jax.random.key(0), 50)
    np.testing.assert_allclose(rules.nodes, [values] * 2, atol=1e-10)
    np.testing.assert_allclose(rules.weights, 1 / 12, atol=1e-10)

  @parameterized.parameters(0.0, 2.0, -1e-8)
  def test_one_eigenvalue(self, value):
    # The space is invariant after one product.
    values = jnp.full(20, value, jnp.float32)
    rules = _diagonal_rules(values, jax.random.key(0), 8)
    np.testing.assert_allclose(rules.weights.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(rules.nodes, value, rtol=1e-4)
    np.testing.assert_allclose(_moment(rules, 1).value, value, rtol=1e-5)

  def test_vmapped_equals_looped(self):
    values = jnp.asarray(_eigenvalues()[:60], jnp.float32)
    values = jnp.stack([values, -2 * values])
    keys = jax.random.split(jax.random.key(0))
    together = jax.vmap(lambda v, key: _rules(v, key, 8, 4))(
      values, jax.random.clone(keys)
    )
    for i in range(2):
      alone = _rules(values[i], keys[i], 8, 4)
      np.testing.assert_allclose(together.nodes[i], alone.nodes, atol=2e-4)
      np.testing.assert_allclose(together.weights[i], alone.weights, atol=1e-4)

  def test_not_finite_is_nan(self):
    rules = _diagonal_rules(jnp.full(9, jnp.nan), jax.random.key(0), 4)
    self.assertTrue(np.all(np.isnan(rules.nodes)))
    self.assertTrue(np.isnan(spectra.count_below(rules, 0.0).value))

  def test_moments_are_trace_and_norm(self):
    values = _eigenvalues()
    for power in (1, 2):
      value, error = _moment(_network_like(), power)
      exact = np.mean(values**power)
      self.assertLess(abs(value - exact), 3 * error)
      self.assertLess(error, exact)

  @parameterized.parameters((1, 2, "probes=1"), (2, 0, "order=0"))
  def test_errors(self, probes, order, message):
    with self.assertRaisesRegex(ValueError, message):
      spectra.quadrature(
        lambda v: v, jnp.ones(3), jax.random.key(0), order=order, probes=probes
      )


class DensityTest(parameterized.TestCase):
  @parameterized.parameters((spectra.linear, 0.1), (spectra.symlog(1e-3), 0.05))
  def test_integrates_to_one(self, axis, width):
    rules = _network_like()
    places = axis(rules.nodes)
    grid = np.linspace(places.min() - 5 * width, places.max() + 5 * width, 2000)
    found = spectra.density(rules, grid, width, axis)
    np.testing.assert_allclose(np.trapezoid(found.value, grid), 1, rtol=1e-3)
    self.assertEqual(found.standard_error.shape, (2000,))

  @parameterized.parameters(spectra.linear, spectra.symlog(0.1))
  def test_equals_the_exact_density(self, axis):
    values = np.random.default_rng(0).normal(size=12)
    grid = np.linspace(-3, 3, 50)
    with jax.enable_x64(True):
      rules = _diagonal_rules(values, jax.random.key(0), 12)
      found = spectra.density(rules, grid, 0.3, axis)
      away = (grid[:, None] - np.asarray(axis(values))) / 0.3
    exact = np.exp(-(away**2) / 2).mean(axis=1) / (0.3 * math.sqrt(2 * math.pi))
    np.testing.assert_allclose(found.value, exact, atol=1e-9)

  def test_bars_hold_the_exact_density(self):
    rules, width = _network_like(), 1.0
    grid = np.linspace(-12, 35, 40)
    found = spectra.density(rules, grid, width)
    away = (grid[:, None] - _eigenvalues()) / width
    exact = np.exp(-(away**2) / 2).mean(axis=1) / math.sqrt(2 * math.pi)
    off = np.abs(found.value - exact)
    np.testing.assert_array_less(off, 4 * found.standard_error + 1e-4)
    self.assertLess(np.max(found.standard_error), 0.05)

  def test_symlog(self):
    axis = spectra.symlog(0.01)
    np.testing.assert_allclose(
      axis(jnp.array([-0.09, 0.0, 0.99])), [-1, 0, 2], atol=1e-5
    )


class CountTest(parameterized.TestCase):
  @parameterized.parameters(1e-5, 1e-4, 1e-3, 1e-2, 0.05, 1.0, 4.0, 20.0, 40.0)
  def test_bars_hold_the_count(self, threshold):
    values, rules = _eigenvalues(), _network_like()
    for count, true in (
      (spectra.count_below(rules, -threshold), np.sum(values < -threshold)),
      (spectra.count_above(rules, threshold), np.sum(values > threshold)),
    ):
      self.assertBetween(true, float(count.low) - 0.01, float(count.high))
      self.assertBetween(float(count.value), float(count.low), count.high)

  def test_bars_are_wide_where_nodes_cannot_resolve(self):
    # Near zero the nodes cannot resolve the count, and the standard error over
    # probe vectors alone would be far too small.
    values, rules = _eigenvalues(), _network_like()
    near = spectra.count_below(rules, -1e-3)
    true = np.sum(values < -1e-3)
    self.assertGreater(near.high - near.low, 0.9 * true)
    shares = (rules.weights * (rules.nodes < -1e-3)).sum(axis=1)
    error = SIZE * shares.std() / len(shares) ** 0.5
    self.assertGreater(abs(near.value - true), 3 * error)
    far = spectra.count_above(rules, 1.0)
    self.assertLess(far.high, 12)

  def test_bounds_of_one_measure(self):
    # A diagonal matrix: no error from probe vectors, only from the nodes.
    values = np.array([-2.0, -1.0, -0.5, 1.0, 3.0])
    with jax.enable_x64(True):
      thresholds = np.array([-3.0, -1.5, -0.7, 0.0, 2.0, 4.0])
      count_all = jax.jit(jax.vmap(spectra.count_below, (None, 0)))
      for order in (1, 3, 4):
        rules = _diagonal_rules(values, jax.random.key(0), order)
        count = count_all(rules, thresholds)
        true = np.sum(values[None] < thresholds[:, None], axis=1)
        np.testing.assert_array_less(count.low, true + 1e-6)
        np.testing.assert_array_less(true - 1e-6, count.high)

  def test_bar_is_three_standard_errors(self):
    rules = spectra.Quadrature(
      nodes=np.float32([[-1, 1], [-1, 1]]),
      weights=np.float32([[0.2, 0.8], [0.4, 0.6]]),
      size=np.int32(10),
      slack=np.int32(0),
    )
    # Shares below 0 are 0.2 and 0.4: their mean has standard error 0.1.
    count = spectra.count_below(rules, 0.0)
    np.testing.assert_allclose(count, (3, 0, 6), rtol=1e-5, atol=1e-6)
    mean = _moment(rules, 1)
    np.testing.assert_allclose(mean, (0.4, 0.2), rtol=1e-5)

  def test_rounding_of_lanczos_is_in_the_bar(self):
    rules = spectra.Quadrature(
      nodes=np.float32([[1 - 1e-6, 100], [1 - 1e-6, 100]]),
      weights=np.full((2, 2), 0.5, np.float32),
      size=np.int32(2),
      slack=np.int32(0),
    )
    for count in (spectra.count_below, spectra.count_above):
      got = count(rules, 1.0)
      self.assertAlmostEqual(float(got.high - got.low), 1, places=5)

  def test_rounding_widens(self):
    rules = _network_like()
    plain = spectra.count_above(rules, 4.0)
    wide = spectra.count_above(rules, 4.0, rounding=3.99)
    self.assertGreater(wide.high, plain.high + 10)


def _small(seed: int) -> np.ndarray:
  a = np.random.default_rng(seed).normal(size=(24, 24))
  return (a + a.T + np.diag(np.linspace(-1, 60, 24))).astype(np.float32)


@functools.partial(jax.jit, static_argnames=("probes", "k"))
def _sizes(matrix, key, probes=20, k=0):
  def operator(v):
    return jnp.dot(matrix, v, precision="highest")

  probe_key, lanczos_key = jax.random.split(key)
  known = None
  if k:
    known = spectra.lanczos(
      operator,
      matrix[0],
      lanczos_key,
      k_top=k,
      k_bottom=k,
      max_order=24,
      tolerance=1e-5,
    )
  return spectra.estimate_sizes(
    operator, matrix[0], probe_key, probes=probes, deflate=known
  )


class SizesTest(parameterized.TestCase):
  @parameterized.parameters(0, 3)
  def test_standard_errors_are_calibrated(self, k):
    matrix = _small(0)
    keys = jax.random.split(jax.random.key(0), 200)
    found = jax.device_get(
      jax.jit(jax.vmap(lambda key: _sizes(matrix, key, k=k)))(keys)
    )
    for estimate, exact in (
      (found.trace, np.trace(matrix)),
      (found.square_frobenius, np.sum(matrix**2)),
      (found.frobenius, np.linalg.norm(matrix)),
    ):
      z = (estimate.value - exact) / estimate.standard_error
      self.assertLess(abs(z.mean()), 0.3)
      self.assertBetween(z.std(), 0.8, 1.35)
      self.assertLess(np.mean(np.abs(z) > 3), 0.05)

  def test_known_pairs_lower_the_error(self):
    rng = np.random.default_rng(0)
    q = np.linalg.qr(rng.normal(size=(24, 24)))[0]
    values = np.concatenate([[50, 20, -30], rng.normal(size=21)])
    matrix = jnp.asarray((q * values) @ q.T, jnp.float32)
    plain = _sizes(matrix, jax.random.key(0))
    deflated = _sizes(matrix, jax.random.key(0), k=2)
    for name in plain._fields:
      a, b = getattr(plain, name), getattr(deflated, name)
      self.assertLess(b.standard_error, 0.3 * a.standard_error)
    trace, _, norm = deflated
    self.assertLess(abs(trace.value - values.sum()), 3.5 * trace.standard_error)
    self.assertLess(
      abs(norm.value - np.linalg.norm(values)), 3.5 * norm.standard_error
    )

  def test_all_pairs_known_is_exact(self):
    matrix = _small(1)
    trace, _, norm = _sizes(matrix, jax.random.key(0), k=12)
    np.testing.assert_allclose(trace.value, np.trace(matrix), rtol=1e-4)
    np.testing.assert_allclose(norm.value, np.linalg.norm(matrix), rtol=1e-4)
    self.assertLess(norm.standard_error, 1e-3 * norm.value)

  def test_diagonal_and_zero(self):
    found = _sizes(jnp.diag(jnp.arange(24.0)), jax.random.key(0))
    np.testing.assert_allclose(found.trace.value, 276, rtol=1e-6)
    zero = _sizes(jnp.zeros((24, 24)), jax.random.key(0))
    for estimate in zero:
      self.assertEqual(float(estimate.value), 0)
      self.assertEqual(float(estimate.standard_error), 0)

  def test_errors(self):
    with self.assertRaisesRegex(ValueError, "at least 2, got probes=1"):
      _sizes(_small(0), jax.random.key(0), probes=1)
    with self.assertRaisesRegex(ValueError, "P=24 pairs, got 26"):
      _sizes(_small(0), jax.random.key(0), k=13)


if __name__ == "__main__":
  absltest.main()
