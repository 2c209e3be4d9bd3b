"""Lanczos against known spectra, dense matrices, ARPACK and its own bounds."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from scipy.sparse.linalg import LinearOperator, eigsh

from induction_jax import spectra
from induction_jax.spectra import krylov

# Operators with a known spectrum, of one size so that they compile once.

SIZE = 24


@functools.partial(jax.jit, static_argnames=("k", "max_order", "max_basis"))
def _diagonal_spectrum(
  diagonal, key, k=3, max_order=SIZE, tolerance=1e-4, max_basis=None
):
  return spectra.lanczos(
    lambda v: diagonal * v,
    diagonal,
    key,
    k_top=k,
    k_bottom=k,
    max_order=max_order,
    tolerance=tolerance,
    max_basis=max_basis,
  )


def _diagonal(name: str) -> np.ndarray:
  rest = np.linspace(-0.5, 0.5, SIZE)
  named = {
    "identity": np.ones(SIZE),
    "zero": np.zeros(SIZE),
    "rank_one": np.where(np.arange(SIZE) == 7, -2.0, 0.0),
    "pairs": np.concatenate([np.arange(1, 13), -np.arange(1, 13)]),
    "clusters": np.concatenate(
      [[5, 4.99, 4.98], [-6, -5.99, -5.98], rest[:18]]
    ),
    "repeated": np.repeat([5.0, 1.0, 0.0, -1.0, -5.0], [3, 6, 6, 7, 2]),
    "small": 1e-9 * np.concatenate([[5, 4, 3, -6, -5, -4], rest[:18]]),
    "spread": np.concatenate([[300, 20, 3, -40, -5, -1], 1e-3 * rest[:18]]),
  }
  return named[name].astype(np.float32)


class KnownSpectraTest(parameterized.TestCase):
  @parameterized.parameters("pairs", "clusters", "small", "spread")
  def test_distinct(self, name):
    diagonal = _diagonal(name)
    spectrum = _diagonal_spectrum(diagonal, jax.random.key(0))
    values = np.sort(diagonal)
    scale = np.abs(values).max()
    np.testing.assert_allclose(
      spectrum.top.values, values[::-1][:3], atol=2e-5 * scale
    )
    np.testing.assert_allclose(
      spectrum.bottom.values, values[:3], atol=2e-5 * scale
    )
    self._check_bounds(diagonal, spectrum)

  @parameterized.parameters("identity", "zero", "rank_one", "repeated")
  def test_repeated(self, name):
    # The space becomes invariant again and again; k = P / 2 covers all copies.
    diagonal = _diagonal(name)
    spectrum = _diagonal_spectrum(diagonal, jax.random.key(0), k=SIZE // 2)
    values = np.sort(diagonal)
    np.testing.assert_allclose(
      spectrum.top.values, values[::-1][: SIZE // 2], atol=1e-5
    )
    np.testing.assert_allclose(
      spectrum.bottom.values, values[: SIZE // 2], atol=1e-5
    )
    self.assertTrue(np.all(spectrum.top.converged))
    self._check_bounds(diagonal, spectrum)

  @parameterized.parameters("identity", "zero", "rank_one", "repeated")
  def test_no_false_copies(self, name):
    diagonal = _diagonal(name)
    spectrum = _diagonal_spectrum(diagonal, jax.random.key(0))
    for pairs in (spectrum.top, spectrum.bottom):
      for value in np.unique(diagonal):
        found = np.sum(np.abs(np.asarray(pairs.values) - value) < 1e-3)
        self.assertLessEqual(found, np.sum(diagonal == value))
    self._check_bounds(diagonal, spectrum)

  def _check_bounds(self, diagonal, spectrum):
    matrix = np.diag(diagonal.astype(np.float64))
    for pairs in (spectrum.top, spectrum.bottom):
      v = np.asarray(pairs.vectors, np.float64)
      true = np.linalg.norm(
        v @ matrix - np.asarray(pairs.values, np.float64)[:, None] * v, axis=1
      )
      self.assertTrue(np.all(true <= np.asarray(pairs.residuals)))
      np.testing.assert_allclose(v @ v.T, np.eye(len(v)), atol=1e-5)

  def test_fewer_parameters_than_order(self):
    diagonal = jnp.array([3.0, -1.0, 2.0, 0.5, -4.0])
    spectrum = _diagonal_spectrum(
      diagonal, jax.random.key(0), k=4, max_order=50
    )
    np.testing.assert_allclose(spectrum.top.values, [3, 2, 0.5, -1], rtol=1e-5)
    np.testing.assert_allclose(
      spectrum.bottom.values, [-4, -1, 0.5, 2], rtol=1e-5
    )
    self.assertEqual(int(spectrum.products), 5)

  def test_one_parameter(self):
    spectrum = _diagonal_spectrum(
      jnp.array([-3.0]), jax.random.key(0), k=1, max_order=2
    )
    np.testing.assert_allclose(spectrum.top.values, [-3], rtol=1e-6)
    np.testing.assert_allclose(spectrum.norm, 3, rtol=1e-6)

  @parameterized.parameters(np.nan, np.inf)
  def test_stops_if_a_product_is_not_finite(self, value):
    # Other operators under the same vmap continue.
    diagonals = np.stack([np.full(SIZE, value), _diagonal("pairs")])
    keys = jax.random.split(jax.random.key(0))
    spectrum = jax.vmap(_diagonal_spectrum)(diagonals.astype(np.float32), keys)
    self.assertEqual(int(spectrum.products[0]), 1)
    for pairs in (spectrum.top, spectrum.bottom):
      self.assertTrue(np.all(np.isnan(pairs.values[0])))
      self.assertTrue(np.all(np.isnan(pairs.vectors[0])))
      self.assertTrue(np.all(np.isnan(pairs.residuals[0])))
      self.assertFalse(np.any(pairs.converged[0]))
    np.testing.assert_allclose(spectrum.top.values[1], [12, 11, 10], rtol=1e-4)

  def test_vmapped_equals_looped(self):
    names = ("pairs", "clusters", "rank_one")
    diagonals = jnp.stack([jnp.asarray(_diagonal(name)) for name in names])
    keys = jax.random.split(jax.random.key(0), 3)
    together = jax.vmap(_diagonal_spectrum)(diagonals, jax.random.clone(keys))
    for i in range(3):
      alone = _diagonal_spectrum(diagonals[i], keys[i])
      for a, b in zip(together[:2], alone[:2]):
        np.testing.assert_allclose(a.values[i], b.values, atol=2e-4)
        np.testing.assert_array_equal(a.converged[i], b.converged)
      self.assertEqual(int(together.products[i]), int(alone.products))

  @parameterized.parameters(None, 20)
  def test_a_million_parameters(self, max_basis):
    rng = np.random.default_rng(0)
    size = 1_000_000
    diagonal = rng.normal(0, 0.1, size).astype(np.float32)
    outliers = [30, 20, 15, 10, 7, -25, -18, -12, -9, -6]
    diagonal[rng.permutation(size)[:10]] = outliers
    spectrum = _diagonal_spectrum(
      diagonal,
      jax.random.key(0),
      k=5,
      max_order=40,
      tolerance=1e-3,
      max_basis=max_basis,
    )
    np.testing.assert_allclose(spectrum.top.values, outliers[:5], rtol=1e-5)
    np.testing.assert_allclose(spectrum.bottom.values, outliers[5:], rtol=1e-5)
    self.assertTrue(np.all(spectrum.top.converged))
    self.assertTrue(np.all(spectrum.bottom.converged))
    self.assertLess(int(spectrum.products), 40)

  def test_order_of_150(self):
    # No pair meets the tolerance, and still no eigenvalue is found twice.
    diagonal = np.linspace(-1, 1, 400).astype(np.float32)
    diagonal[:4] = 9, 7, -8, -6
    spectrum = _diagonal_spectrum(
      diagonal, jax.random.key(0), k=20, max_order=150, tolerance=0.0
    )
    self.assertEqual(int(spectrum.products), 150)
    values = np.concatenate([spectrum.top.values, spectrum.bottom.values])
    for outlier in diagonal[:4]:
      self.assertEqual(np.sum(np.abs(values - outlier) < 1e-3), 1)
    self._check_bounds(diagonal, spectrum)

  def test_pairs_that_have_not_converged_are_flagged(self):
    diagonal = np.linspace(-1, 1, 300).astype(np.float32)
    diagonal[:2] = 9, -8
    spectrum = _diagonal_spectrum(
      diagonal, jax.random.key(0), k=3, max_order=9, tolerance=1e-3
    )
    self.assertEqual(int(spectrum.products), 9)
    for pairs in (spectrum.top, spectrum.bottom):
      true = np.linalg.norm(
        np.asarray(pairs.vectors)
        * (diagonal[None] - np.asarray(pairs.values)[:, None]),
        axis=1,
      )
      self.assertTrue(np.all(true <= np.asarray(pairs.residuals)))
      self.assertFalse(np.any(np.asarray(pairs.converged)[1:]))
      self.assertTrue(
        np.all((true < 1e-2 * np.abs(pairs.values)) | ~pairs.converged)
      )

  @parameterized.parameters(1e2, 1e4, 1e6)
  def test_bounds_hold_where_the_other_end_is_larger(self, largest):
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(60, 60)))[0]
    exact = np.concatenate([[largest], np.linspace(1, 2, 57), [0.3, 0.1]])
    matrix = np.float32((basis * exact) @ basis.T)
    spectrum = spectra.lanczos(
      lambda v: jnp.dot(jnp.asarray(matrix), v, precision="highest"),
      jnp.ones(60, jnp.float32),
      jax.random.key(0),
      k_top=0,
      k_bottom=2,
      max_order=60,
      tolerance=1e-3,
    )
    v = np.float64(spectrum.bottom.vectors)
    values = np.float64(spectrum.bottom.values)
    true = np.linalg.norm(v @ np.float64(matrix) - values[:, None] * v, axis=1)
    self.assertTrue(np.all(true <= spectrum.bottom.residuals))

  @parameterized.parameters(1e-30, 1e-18, 1e30)
  def test_scale_does_not_matter(self, scale):
    diagonal = np.concatenate([[-9.0, -7.0], np.linspace(-1, 1, 5000), [6, 8]])
    spectrum = spectra.lanczos(
      lambda v: jnp.float32(scale * diagonal) * v,
      jnp.ones(diagonal.size, jnp.float32),
      jax.random.key(0),
      k_top=2,
      k_bottom=2,
      max_order=60,
      tolerance=1e-4,
    )
    self.assertTrue(spectrum.top.converged.all())
    np.testing.assert_allclose(spectrum.top.values / scale, [8, 6], rtol=1e-4)
    np.testing.assert_allclose(
      spectrum.bottom.values / scale, [-9, -7], rtol=1e-4
    )

  def test_nothing_converges_where_rounding_underflows(self):
    diagonal = np.random.default_rng(0).normal(size=60) * 1e-37
    diagonal = jnp.asarray(diagonal, jnp.float32)
    spectrum = spectra.lanczos(
      lambda v: diagonal * v,
      diagonal,
      jax.random.key(0),
      k_top=2,
      k_bottom=2,
      max_order=60,
      tolerance=1e-3,
    )
    self.assertFalse(np.any(spectrum.top.converged))

  def test_starts_at_the_given_vector(self):
    spectrum = spectra.lanczos(
      lambda v: jnp.arange(5.0) * v,
      jnp.ones(5),
      jax.random.key(0),
      k_top=1,
      k_bottom=0,
      max_order=1,
      tolerance=1e-3,
      start=7 * jnp.eye(5)[2],
    )
    np.testing.assert_allclose(spectrum.top.values, [2], rtol=1e-6)

  def test_a_start_that_does_not_fit(self):
    with self.assertRaisesRegex(ValueError, r"shapes of like, \(3,\), got"):
      spectra.lanczos(
        lambda v: v,
        jnp.ones(3),
        jax.random.key(0),
        k_top=1,
        k_bottom=1,
        max_order=3,
        tolerance=1e-3,
        start=jnp.ones(4),
      )

  @parameterized.parameters(
    {"like": {"a": jnp.ones(3), "b": jnp.ones(3, jnp.bfloat16)}},
    {"like": {"a": jnp.ones(3, jnp.bfloat16)}},
    {"like": {"a": jnp.ones(3, jnp.int32)}},
  )
  def test_one_floating_dtype(self, like):
    with self.assertRaisesRegex(TypeError, "all float32 or all float64, got"):
      spectra.lanczos(
        lambda v: v,
        like,
        jax.random.key(0),
        k_top=1,
        k_bottom=1,
        max_order=3,
        tolerance=1e-2,
      )

  @parameterized.parameters((3, 0), (0, 3))
  def test_one_end_alone(self, k_top, k_bottom):
    diagonal = np.concatenate([[-9.0, -7.0, -5.0], np.zeros(50), [4, 6, 8]])
    spectrum = spectra.lanczos(
      lambda v: jnp.float32(diagonal) * v,
      jnp.ones(diagonal.size, jnp.float32),
      jax.random.key(0),
      k_top=k_top,
      k_bottom=k_bottom,
      max_order=20,
      tolerance=1e-4,
    )
    want = diagonal[::-1] if k_top else diagonal
    pairs, none = spectrum.top, spectrum.bottom
    if k_bottom:
      pairs, none = none, pairs
    np.testing.assert_allclose(pairs.values, want[:3], rtol=1e-4)
    self.assertEqual(none.vectors.shape, (0, diagonal.size))
    widened = spectra.add_rounding(spectrum, jnp.float32(0.1), 1e-4)
    self.assertEqual(widened.products, spectrum.products + 2)

  @parameterized.parameters(
    (dict(k_top=6, k_bottom=1), "from 0 to P=5, .* got k_top=6, k_bottom=1"),
    (dict(k_top=1, k_bottom=6), "from 0 to P=5, .* got k_top=1, k_bottom=6"),
    (dict(k_top=-1, k_bottom=2), "from 0 to P=5, .* got k_top=-1, k_bottom=2"),
    (dict(k_top=0, k_bottom=0), "and not both 0, got k_top=0, k_bottom=0"),
    (
      dict(k_top=2, k_bottom=2, max_order=3),
      r"at least min\(k_top \+ k_bottom, P\)=4, got max_order=3",
    ),
    (
      dict(k_top=1, k_bottom=1, max_basis=3),
      r"at least k_top \+ k_bottom \+ 2=4, got max_basis=3",
    ),
  )
  def test_errors(self, sizes, message):
    with self.assertRaisesRegex(ValueError, message):
      spectra.lanczos(
        lambda v: v,
        jnp.ones(5),
        jax.random.key(0),
        tolerance=1e-2,
        **{"max_order": 5, **sizes},
      )


# A dense matrix with outliers at both ends.

DENSE = 150


@functools.cache
def _matrix() -> np.ndarray:
  rng = np.random.default_rng(0)
  q = np.linalg.qr(rng.normal(size=(DENSE, DENSE)))[0]
  outliers = 20 / np.arange(1, 21)
  bulk = rng.normal(0, 0.05, DENSE - 40)
  matrix = (q * np.concatenate([outliers, -0.4 * outliers, bulk])) @ q.T
  return (matrix + matrix.T) / 2


def _dense_spectrum(matrix, key, max_basis=None, k=4, **sizes):
  return spectra.lanczos(
    lambda v: jnp.dot(matrix, v, precision="highest"),
    matrix[0],
    key,
    k_top=k,
    k_bottom=k,
    max_basis=max_basis,
    **{"max_order": DENSE, "tolerance": 1e-6, **sizes},
  )


class KrylovTest(parameterized.TestCase):
  @parameterized.parameters((np.float64, 1e-12), (np.float32, 3e-6))
  def test_relation_and_orthonormality(self, dtype, allowed):
    with jax.enable_x64(dtype is np.float64):
      matrix = jnp.asarray(_matrix(), dtype)
      rng = np.random.default_rng(1)
      start, spare = jnp.asarray(rng.normal(size=(2, DENSE)), dtype)
      grow = jax.jit(
        lambda start: jax.lax.fori_loop(
          0,
          90,
          lambda _, state: krylov.extend(
            lambda v: jnp.dot(matrix, v, precision="highest"), state, spare
          ),
          krylov.init_krylov(start, 100),
        )
      )
      state = jax.device_get(grow(start))
    basis = state.basis[:90].astype(np.float64)
    np.testing.assert_allclose(basis @ basis.T, np.eye(90), atol=allowed)
    outside = basis @ _matrix() - state.projected[:90, :90] @ basis
    expected = np.zeros((90, DENSE))
    expected[-1] = state.residual * state.direction
    np.testing.assert_allclose(outside, expected, atol=20 * allowed)
    # Tridiagonal, although the code never sets it to be.
    far = state.projected - np.tril(np.triu(state.projected, -1), 1)
    self.assertLess(np.abs(far).max(), 20 * allowed)
    np.testing.assert_array_equal(state.basis[90:], 0)
    np.testing.assert_allclose(basis @ state.direction, 0, atol=allowed)


class RestartTest(parameterized.TestCase):
  @parameterized.product(max_basis=(10, 16, 23), dtype=(np.float64, np.float32))
  def test_equals_dense(self, max_basis, dtype):
    with jax.enable_x64(dtype is np.float64):
      spectrum = jax.device_get(
        jax.jit(
          functools.partial(
            _dense_spectrum,
            max_basis=max_basis,
            max_order=400,
            tolerance=1e-4,
          )
        )(jnp.asarray(_matrix(), dtype), jax.random.key(0))
      )
    values = np.linalg.eigvalsh(_matrix())
    self.assertGreater(int(spectrum.products), max_basis)
    for pairs, expected in (
      (spectrum.top, values[::-1][:4]),
      (spectrum.bottom, values[:4]),
    ):
      self.assertTrue(np.all(pairs.converged))
      np.testing.assert_allclose(pairs.values, expected, rtol=1e-5)
      v = np.asarray(pairs.vectors, np.float64)
      true = np.linalg.norm(
        v @ _matrix() - np.asarray(pairs.values, np.float64)[:, None] * v,
        axis=1,
      )
      np.testing.assert_array_less(true, pairs.residuals)
      np.testing.assert_allclose(v @ v.T, np.eye(4), atol=1e-5)

  def test_bounds_hold_where_it_has_not_converged(self):
    spectrum = _dense_spectrum(
      jnp.asarray(_matrix(), jnp.float32),
      jax.random.key(0),
      max_basis=10,
      max_order=21,
    )
    self.assertEqual(int(spectrum.products), 21)
    for pairs in (spectrum.top, spectrum.bottom):
      v = np.asarray(pairs.vectors, np.float64)
      true = np.linalg.norm(
        v @ _matrix() - np.asarray(pairs.values, np.float64)[:, None] * v,
        axis=1,
      )
      np.testing.assert_array_less(true, pairs.residuals)
      self.assertLess(pairs.residuals.max(), 30 * true.max())
      self.assertFalse(np.all(pairs.converged))

  def test_the_basis_is_bounded(self):
    rows = {}
    for max_basis in (None, 16):
      run = functools.partial(_dense_spectrum, max_basis=max_basis)
      traced = str(jax.make_jaxpr(run)(jnp.ones((DENSE, DENSE)), _key(0)))
      found = re.findall(rf"f32\[(\d+),{DENSE}\]", traced)
      rows[max_basis] = max(int(n) for n in found if int(n) != DENSE)
    self.assertEqual(rows, {None: 152, 16: 16})


def _key(seed: int):
  return jax.random.key(seed)


class ArpackTest(parameterized.TestCase):
  @parameterized.parameters(0, 1, 2)
  def test_no_more_products(self, seed):
    rng = np.random.default_rng(seed)
    outliers = 50 * np.exp(-np.arange(30) / 8)
    diagonal = np.concatenate(
      [outliers, -0.3 * outliers, rng.normal(0, 0.05, 740)]
    )
    with jax.enable_x64(True):
      ours = _diagonal_spectrum(
        jnp.asarray(diagonal), _key(seed), k=10, max_order=100, tolerance=1e-3
      )
    for pairs in (ours.top, ours.bottom):
      self.assertTrue(np.all(pairs.converged))
    np.testing.assert_allclose(ours.top.values, outliers[:10], rtol=1e-5)
    np.testing.assert_allclose(
      ours.bottom.values, -0.3 * outliers[:10], rtol=1e-5
    )
    both = self._products(diagonal, "BE", 20, rng)
    apart = sum(self._products(diagonal, end, 10, rng) for end in ("LA", "SA"))
    self.assertLessEqual(int(ours.products), min(both, apart))

  def _products(self, diagonal, which, k, rng) -> int:
    used = []

    def product(v):
      used.append(1)
      return diagonal * v.ravel()

    operator = LinearOperator(
      (len(diagonal),) * 2, matvec=product, dtype=np.float64
    )
    start = rng.normal(size=len(diagonal))
    eigsh(operator, k=k, which=which, tol=1e-3, v0=start)
    return len(used)


class EighTest(absltest.TestCase):
  def test_each_lapack_call_gets_one_matrix(self):
    matrices = np.random.default_rng(0).normal(size=(5, 6, 6))
    matrices = np.float32(matrices + matrices.swapaxes(1, 2))
    program = jax.jit(jax.vmap(krylov.eigh)).lower(matrices).compile()
    calls = [
      line for line in program.as_text().splitlines() if "lapack" in line
    ]
    self.assertNotEmpty(calls)
    for call in calls:
      self.assertNotIn("[5,6,6]", call)
    values, vectors = program(matrices)
    want = np.linalg.eigvalsh(matrices.astype(np.float64))
    np.testing.assert_allclose(values, want, atol=1e-5)
    np.testing.assert_allclose(
      np.einsum("nij,nj,nkj->nik", vectors, values, vectors),
      matrices,
      atol=1e-5,
    )


if __name__ == "__main__":
  absltest.main()
