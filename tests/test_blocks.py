"""Blocks of parameters against the blocks of dense matrices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from jax.flatten_util import ravel_pytree

from induction_jax import spectra

# Five blocks: two heads of the same size, a single parameter, one block in two
# leaves, and one in which the operator is zero.
LIKE = {
  "alone": jnp.zeros(1),
  "heads": jnp.zeros((2, 3, 4)),
  "scale": jnp.zeros(3),
  "shift": jnp.zeros(4),
  "unused": jnp.zeros(6),
}
IDS = {
  "alone": 2,
  "heads": np.array([3, 0])[:, None, None],
  "scale": 1,
  "shift": 1,
  "unused": np.full(6, 4),
}
NAMES = ("second", "norms", "alone", "first", "unused")
SIZES = (12, 7, 1, 12, 6)
P = 38


def _flat_ids() -> np.ndarray:
  """The block of each parameter, written by hand in the order of leaves."""
  return np.repeat([2, 3, 0, 1, 1, 4], [1, 12, 12, 3, 4, 6])


def _matrix(shift: float = 0.0) -> np.ndarray:
  """Symmetric, zero in the rows of the last block."""
  rng = np.random.default_rng(0)
  a = rng.normal(size=(P, P)) * rng.uniform(0.2, 2, size=P)
  used = _flat_ids() != 4
  matrix = np.where(used[:, None] & used, a + a.T, 0)
  return matrix + shift * np.diag(used)


def _product(matrix, v):
  flat, unravel = ravel_pytree(v)
  return unravel(jnp.dot(matrix, flat, precision="highest"))


def _operator(matrix):
  return jax.tree_util.Partial(_product, jnp.asarray(matrix, jnp.float32))


def _partition() -> spectra.Partition:
  return spectra.make_partition(NAMES, IDS, LIKE)


def _dense_block(matrix: np.ndarray, a: int, b: int) -> np.ndarray:
  return matrix[np.ix_(_flat_ids() == a, _flat_ids() == b)]


class PartitionTest(parameterized.TestCase):
  def test_ids(self):
    partition = _partition()
    np.testing.assert_array_equal(partition.ids, _flat_ids())
    np.testing.assert_array_equal(partition.sizes, SIZES)
    self.assertEqual(partition.names, NAMES)

  def test_shapes_are_enough(self):
    shapes = jax.eval_shape(lambda: LIKE)
    partition = spectra.make_partition(NAMES, IDS, shapes)
    np.testing.assert_array_equal(partition.ids, _flat_ids())

  @parameterized.parameters(
    ({"scale": 5}, ValueError, r"ids\['scale'\] must be from 0 to 4.*5 to 5"),
    ({"scale": -1}, ValueError, "must be from 0 to 4.*got -1 to -1"),
    ({"scale": 1.0}, TypeError, r"ids\['scale'\] must be integers"),
    ({"scale": np.ones(2, int)}, ValueError, r"to \(3,\), got \(2,\)"),
    ({"alone": 1}, ValueError, r"none in \['alone'\]"),
    ({"more": 1}, ValueError, "more"),
  )
  def test_errors(self, change, error, message):
    with self.assertRaisesRegex(error, message):
      spectra.make_partition(NAMES, IDS | change, LIKE)

  def test_names_differ(self):
    with self.assertRaisesRegex(ValueError, "names must differ"):
      spectra.make_partition(("a", "b", "c", "d", "a"), IDS, LIKE)


class MassTest(parameterized.TestCase):
  def test_equals_numpy(self):
    flat = np.random.default_rng(0).normal(size=(3, P)).astype(np.float32)
    vectors = jax.vmap(ravel_pytree(LIKE)[1])(jnp.asarray(flat))
    got = jax.jit(lambda v: spectra.mass(v, _partition()))(vectors)
    self.assertEqual(got.shape, (3, 5))
    np.testing.assert_allclose(got.sum(axis=1), 1, rtol=1e-6)
    for b in range(5):
      expected = (flat[:, _flat_ids() == b] ** 2).sum(1) / (flat**2).sum(1)
      np.testing.assert_allclose(got[:, b], expected, rtol=1e-5)

  def test_null(self):
    flat = np.random.default_rng(1).normal(size=(400, P)).astype(np.float32)
    vectors = jax.vmap(ravel_pytree(LIKE)[1])(jnp.asarray(flat))
    got = spectra.mass(vectors, _partition())
    np.testing.assert_allclose(
      got.mean(axis=0), np.array(SIZES) / P, atol=4 * 0.1 / 20
    )


class ExtremesTest(parameterized.TestCase):
  @functools.cached_property
  def _program(self):
    def run(operator, key):
      return spectra.block_extremes(
        operator, LIKE, _partition(), key, max_order=30, tolerance=1e-4
      )

    return jax.jit(run)

  def test_equals_dense(self):
    # With the shift all blocks but the last are positive definite: a zero
    # eigenvalue from outside the block would be the smallest.
    for shift in (0.0, 30.0):
      matrix = _matrix(shift)
      got = self._program(_operator(matrix), jax.random.key(0))
      for b, size in enumerate(SIZES):
        values = np.linalg.eigvalsh(_dense_block(matrix, b, b))
        if shift and b != 4:
          self.assertGreater(values[0], 1)
        for end, value in ((got.top, values[-1]), (got.bottom, values[0])):
          error = abs(end.values[b] - value)
          self.assertLessEqual(error, 1e-5 * max(abs(value), 1e-9))
          self.assertLessEqual(error, end.residuals[b])
          self.assertTrue(end.converged[b])
        self.assertLessEqual(got.products[b], size)

  @parameterized.parameters(30, 3)
  def test_blocks_of_one_size(self, max_order):
    like = {"heads": jnp.zeros((3, 4, 2))}
    partition = spectra.make_partition(
      "abc", {"heads": np.array([1, 2, 0])[:, None, None]}, like
    )
    a = np.random.default_rng(0).normal(size=(24, 24))
    matrix = a + a.T
    got = spectra.block_extremes(
      _operator(matrix),
      like,
      partition,
      jax.random.key(0),
      max_order=max_order,
      tolerance=1e-4,
    )
    for b, place in ((0, 16), (1, 0), (2, 8)):
      block = matrix[place : place + 8, place : place + 8]
      values = np.linalg.eigvalsh(block)
      for end, value in ((got.top, values[-1]), (got.bottom, values[0])):
        # With too few products it may be any eigenvalue.
        nearest = np.abs(values - end.values[b]).min()
        self.assertLessEqual(nearest, end.residuals[b])
        self.assertEqual(bool(end.converged[b]), max_order == 30)
        if max_order == 30:
          self.assertLess(abs(end.values[b] - value), 1e-4)
      self.assertLessEqual(got.products[b], min(max_order, 8))


@functools.cache
def _norms_program(probes):
  def run(operator, like, key):
    return spectra.block_norms(operator, like, _partition(), key, probes=probes)

  return jax.jit(run)


def _dense_norms() -> np.ndarray:
  matrix = _matrix()
  return np.array(
    [
      [np.linalg.norm(_dense_block(matrix, a, b)) for b in range(5)]
      for a in range(5)
    ]
  )


class NormsTest(parameterized.TestCase):
  def test_within_three_standard_errors(self):
    norms, errors = jax.device_get(
      _norms_program(128)(_operator(_matrix()), LIKE, jax.random.key(0))
    )
    expected = _dense_norms()
    np.testing.assert_array_equal(norms, norms.T)
    np.testing.assert_array_equal(errors, errors.T)
    np.testing.assert_array_less(
      np.abs(norms - expected), 3 * errors + 1e-5 * expected + 1e-9
    )
    # Errors so wide that anything lies within them would be useless.
    np.testing.assert_array_less(errors, 0.06 * expected + 1e-9)
    np.testing.assert_array_equal(norms[4], 0)
    np.testing.assert_array_equal(errors[4], 0)

  def test_errors_are_standard_errors(self):
    operator = _operator(_matrix())
    keys = jax.random.split(jax.random.key(1), 300)
    norms, errors = jax.device_get(
      jax.lax.map(lambda key: _norms_program(24)(operator, LIKE, key), keys)
    )
    measured = norms.std(axis=0)
    used = (_dense_norms() > 0) & (measured > 1e-4)
    self.assertEqual(used.sum(), 4 * 4 - 1)  # one parameter has only its sign
    ratio = np.sqrt((errors**2).mean(axis=0))[used] / measured[used]
    np.testing.assert_allclose(ratio, 1, atol=0.2)

  def test_needs_two_probes(self):
    with self.assertRaisesRegex(ValueError, "at least 2, got probes=1"):
      _norms_program(1)(_operator(_matrix()), LIKE, jax.random.key(0))


if __name__ == "__main__":
  absltest.main()
