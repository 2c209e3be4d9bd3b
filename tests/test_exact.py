"""The exact mode against numpy, and as a drop-in for Lanczos."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial

from induction_jax import spectra
from induction_jax.spectra.exact import MAX_PARAMETERS

LIKE = {"a": jnp.zeros((2, 3)), "b": jnp.zeros(6)}


def _symmetric(seed: int) -> np.ndarray:
  a = np.random.default_rng(seed).normal(size=(12, 12)).astype(np.float32)
  return a + a.T


def _product(matrix, v):
  flat, unravel = ravel_pytree(v)
  return unravel(jnp.dot(matrix, flat, precision="highest"))


@jax.jit
def _exact(matrix):
  return spectra.exact_spectrum(
    Partial(_product, matrix), LIKE, k_top=3, k_bottom=2
  )


@jax.jit
def _lanczos(matrix):
  return spectra.lanczos(
    Partial(_product, matrix),
    LIKE,
    jax.random.key(0),
    k_top=3,
    k_bottom=2,
    max_order=12,
    tolerance=1e-5,
  )


class DenseTest(parameterized.TestCase):
  def test_columns_are_products(self):
    # Not symmetric, so that a transposed result would fail.
    matrix = np.random.default_rng(0).normal(size=(12, 12)).astype(np.float32)
    got = spectra.dense(Partial(_product, matrix), LIKE)
    np.testing.assert_allclose(got, matrix, rtol=1e-6)

  def test_too_large(self):
    like = jax.ShapeDtypeStruct((MAX_PARAMETERS + 1,), jnp.float32)
    with self.assertRaisesRegex(ValueError, "at most 10000.*got 10001"):
      jax.eval_shape(lambda x: spectra.dense(lambda v: v, x), like)


class SpectrumTest(parameterized.TestCase):
  def test_equals_numpy(self):
    matrix = _symmetric(0)
    spectrum, values = jax.device_get(_exact(matrix))
    expected = np.linalg.eigvalsh(matrix.astype(np.float64))
    np.testing.assert_allclose(values, expected, atol=1e-5)
    np.testing.assert_allclose(
      spectrum.top.values, expected[::-1][:3], atol=1e-5
    )
    np.testing.assert_allclose(spectrum.bottom.values, expected[:2], atol=1e-5)
    self.assertEqual(int(spectrum.products), 12)
    for pairs in (spectrum.top, spectrum.bottom):
      v = jax.vmap(lambda v: ravel_pytree(v)[0])(pairs.vectors)
      v, w = np.asarray(v, np.float64), np.asarray(pairs.values, np.float64)
      true = np.linalg.norm(v @ matrix - w[:, None] * v, axis=1)
      np.testing.assert_array_less(true, pairs.residuals)
      np.testing.assert_array_less(pairs.residuals, 1e-4)
      np.testing.assert_allclose(v @ v.T, np.eye(len(v)), atol=1e-5)
      self.assertTrue(np.all(pairs.converged))

  def test_is_a_drop_in_for_lanczos(self):
    exact, _ = _exact(_symmetric(1))
    found = _lanczos(_symmetric(1))
    chex.assert_trees_all_equal_shapes_and_dtypes(exact, found)
    for a, b in zip(exact[:2], found[:2]):
      np.testing.assert_allclose(a.values, b.values, atol=1e-5)
      cosines = sum(
        jnp.sum(x * y, axis=tuple(range(1, x.ndim)))
        for x, y in zip(jax.tree.leaves(a.vectors), jax.tree.leaves(b.vectors))
      )
      np.testing.assert_allclose(np.abs(cosines), 1, atol=1e-4)
    np.testing.assert_allclose(exact.norm, found.norm, rtol=1e-5)

  def test_every_copy(self):
    diagonal = np.array([5, 5, 5, 1, 1, 1, 1, 0, 0, -4, -4, -4], np.float32)
    spectrum, values = _exact(np.diag(diagonal))
    np.testing.assert_allclose(values, np.sort(diagonal), atol=1e-6)
    np.testing.assert_allclose(spectrum.top.values, [5, 5, 5], rtol=1e-6)
    np.testing.assert_allclose(spectrum.bottom.values, [-4, -4], rtol=1e-6)

  def test_errors_show_in_residuals_and_flags(self):
    matrix = _symmetric(0)
    skewed = matrix.copy()
    skewed[0, 1:] += 1
    spectrum, _ = _exact(skewed)
    self.assertGreater(np.min(spectrum.top.residuals), 0.01)
    matrix[3, 3] = np.nan
    spectrum, _ = _exact(matrix)
    self.assertFalse(np.any(spectrum.top.converged))

  def test_spectrum_as_quadrature_and_sizes(self):
    values = jnp.array([-3.0, -1.0, 0.0, 2.0, 2.0, 5.0])
    rules = spectra.exact_quadrature(values)
    mean = np.sum(rules.weights * rules.nodes, axis=1)
    np.testing.assert_allclose(mean, [5 / 6] * 2, rtol=1e-6)
    for count, threshold, expected in (
      (spectra.count_below, -0.5, 2),
      (spectra.count_above, 1.9, 3),
      (spectra.count_above, 9.0, 0),
    ):
      got = count(rules, jnp.array(threshold))
      np.testing.assert_allclose(got, [expected] * 3, rtol=1e-6)
    # A threshold at an eigenvalue: rounding decides on which side it is.
    at_two = spectra.count_above(rules, jnp.array(2.0))
    np.testing.assert_allclose((at_two.low, at_two.high), (1, 3), rtol=1e-6)
    density = spectra.density(rules, jnp.linspace(-5, 7, 200), 0.1)
    np.testing.assert_array_equal(density.standard_error, 0)
    sizes = spectra.exact_sizes(values)
    for estimate, expected in zip(sizes, (5, 43, 43**0.5)):
      np.testing.assert_allclose(estimate, (expected, 0), rtol=1e-6)

  def test_one_end(self):
    spectrum, _ = spectra.exact_spectrum(
      lambda v: jax.tree.map(lambda x: 2 * x, v), LIKE, k_top=1, k_bottom=0
    )
    np.testing.assert_allclose(spectrum.top.values, [2], rtol=1e-6)
    self.assertEqual(spectrum.bottom.values.shape, (0,))

  def test_nothing_converges_of_an_operator_that_is_not_symmetric(self):
    matrix = np.random.default_rng(0).normal(size=(5, 5)).astype(np.float32)
    for operator, converged in ((matrix + matrix.T, True), (matrix, False)):
      spectrum, _ = spectra.exact_spectrum(
        lambda v, operator=operator: operator @ v,
        jnp.zeros(5),
        k_top=2,
        k_bottom=1,
      )
      np.testing.assert_array_equal(spectrum.top.converged, [converged] * 2)

  @parameterized.parameters((0, 0), (-1, 1), (13, 1), (0, 13))
  def test_errors(self, k_top, k_bottom):
    with self.assertRaisesRegex(
      ValueError, f"P=12, .* got k_top={k_top}, k_bottom={k_bottom}"
    ):
      spectra.exact_spectrum(lambda v: v, LIKE, k_top=k_top, k_bottom=k_bottom)


if __name__ == "__main__":
  absltest.main()
