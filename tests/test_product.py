"""Products with weights and matrix by matrix, against jnp.matmul."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from jax.sharding import Mesh, PartitionSpec

from induction_jax.model.product import product, products


def _draw(seed, *shape):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def _loss(multiply, x, w):
  """Not linear in either, so that no second derivative vanishes."""
  out = multiply(x, w)
  return jnp.sum(jnp.sin(out) * _draw(9, *out.shape))


def _both(f, ours, theirs):
  """The same computation of a loss with our products and with JAX's."""
  return f(functools.partial(_loss, ours)), f(functools.partial(_loss, theirs))


# Ours, JAX's, and the shapes of two factors.
WEIGHTS = (product, jnp.matmul, (4, 3), (3, 5))
CASES = (
  ("weights", *WEIGHTS),
  ("one_row", product, jnp.matmul, (3,), (3, 5)),
  ("many_sequences", product, jnp.matmul, (2, 4, 3), (3, 5)),
  ("matrices", products, jnp.matmul, (2, 4, 3), (2, 3, 5)),
  ("two_matrices", products, jnp.matmul, (4, 3), (3, 5)),
  (
    "transposed",
    functools.partial(products, transposed=True),
    functools.partial(jnp.einsum, "abmk,abnk->abmn"),
    *((2, 1, 4, 3), (2, 1, 5, 3)),
  ),
)


class ProductTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.enter_context(jax.enable_x64(True))

  def assert_equal(self, ours, theirs):
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11),
      ours,
      theirs,
    )

  @parameterized.named_parameters(*CASES)
  def test_value_and_gradients(self, ours, theirs, left, right):
    x, w = _draw(0, *left), _draw(1, *right)
    self.assert_equal(ours(x, w), theirs(x, w))
    self.assert_equal(*_both(lambda f: jax.grad(f, (0, 1))(x, w), ours, theirs))

  @parameterized.named_parameters(*CASES)
  def test_second_derivatives_in_every_order(self, ours, theirs, left, right):
    x, w = _draw(0, *left), _draw(1, *right)
    modes = jax.jacfwd, jax.jacrev
    for outer, inner, wrap in itertools.product(
      modes, modes, (jax.jit, lambda f: f)
    ):

      def derive(f, outer=outer, inner=inner, wrap=wrap):
        return wrap(outer(inner(f, (0, 1)), (0, 1)))(x, w)

      self.assert_equal(*_both(derive, ours, theirs))

  @parameterized.named_parameters(*CASES)
  def test_third_derivatives(self, ours, theirs, left, right):
    x, w = _draw(0, *left), _draw(1, *right)

    def derive(f):
      return jax.jacfwd(jax.jacrev(jax.jacrev(f, 1), (0, 1)), (0, 1))(x, w)

    self.assert_equal(*_both(derive, ours, theirs))

  @parameterized.product(
    case=[case[1:] for case in CASES if case[0] != "one_row"],
    axes=((0, None), (None, 0), (0, 0), (2, 1), (None, 2), (1, None)),
  )
  def test_vmap_of_value_and_derivatives(self, case, axes):
    ours, theirs, *shapes = case
    x, w = (
      _draw(i, *(shape if axis is None else np.insert(shape, axis, 6)))
      for i, (shape, axis) in enumerate(zip(shapes, axes))
    )
    for derive in (
      lambda f: f,
      lambda f: jax.grad(f, (0, 1)),
      lambda f: jax.jacfwd(jax.grad(f, (0, 1)), (0, 1)),
    ):

      def run(f, derive=derive):
        return jax.vmap(derive(f), axes)(x, w)

      self.assert_equal(*_both(run, ours, theirs))

  def test_a_linear_map_and_its_transpose(self):
    x, w, dw = _draw(0, 4, 3), _draw(1, 3, 5), _draw(2, 3, 5)

    def run(f):
      _, linear = jax.linearize(jax.grad(f, 1), x, w)
      return linear(jnp.zeros_like(x), dw)

    self.assert_equal(*_both(run, product, jnp.matmul))

  @parameterized.parameters(False, True)
  def test_it_is_as_precise_as_was_asked_where_it_was_made(self, batched):
    shapes = ((2, 4, 3), (2, 3, 5)) if batched else ((4, 3), (3, 5))
    x, w = (_draw(i, *shape) for i, shape in enumerate(shapes))

    def gradient(x, w):
      with jax.default_matmul_precision("highest"):
        return jax.grad(functools.partial(_loss, product), (0, 1))(x, w)

    # A program that is batched later is no longer in the context.
    run = jax.vmap(jax.jit(gradient)) if batched else gradient
    text = jax.jit(run).lower(x, w).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    self.assertLen(products, 3)
    for line in products:
      self.assertIn("precision = [HIGHEST, HIGHEST]", line)

  def test_what_is_turned_is_copied_on_a_cpu_alone(self):
    x, w = _draw(0, 2, 4, 3), _draw(1, 2, 3, 5)
    gradient = jax.grad(functools.partial(_loss, products), 1)
    traced = jax.jit(gradient).trace(x, w)
    for platform, barriers in (("cpu", 2), ("cuda", 0)):
      text = traced.lower(lowering_platforms=(platform,)).as_text()
      self.assertEqual(text.count("optimization_barrier"), barriers)

  @parameterized.parameters(
    ((4, 3), (4, 5)), ((4, 3), (2, 3, 5)), ((), (3, 5)), ((4, 0), (3, 5))
  )
  def test_shapes_that_do_not_fit(self, left, right):
    with self.assertRaisesRegex(ValueError, "x must be"):
      product(jnp.zeros(left), jnp.zeros(right))

  @parameterized.parameters(
    (False, (2, 4, 3), (2, 5, 3), r"\[..., K, N\]"),
    (True, (2, 4, 3), (2, 3, 5), r"\[..., N, K\]"),
    (False, (2, 4, 3), (3, 5), r"\[..., K, N\]"),
    (False, (2, 4, 3), (1, 3, 5), r"\[..., K, N\]"),
    (True, (3,), (3,), r"\[..., N, K\]"),
  )
  def test_matrices_that_do_not_fit(self, turned, left, right, expected):
    with self.assertRaisesRegex(ValueError, f"right {expected}"):
      products(jnp.zeros(left), jnp.zeros(right), turned)

  @parameterized.parameters((0, 4, 3, 5), (2, 4, 0, 5), (2, 4, 3, 0))
  def test_without_an_entry(self, batch, length, inner, columns):
    x, w = jnp.zeros((batch, length, inner)), jnp.zeros((inner, columns))
    self.assert_equal(product(x, w), x @ w)
    self.assert_equal(
      products(x, jnp.broadcast_to(w, (batch, *w.shape))), x @ w
    )
    self.assert_equal(
      *_both(lambda f: jax.grad(f, (0, 1))(x, w), product, jnp.matmul)
    )

  @parameterized.parameters(False, True)
  def test_what_varies_in_a_shard_map(self, checked):
    mesh = Mesh(np.array(jax.devices()[:1]), ("device",))
    shared, whole = PartitionSpec("device"), PartitionSpec()
    x, w = _draw(0, 4, 3), _draw(1, 3, 5)
    types = []

    def run(x, w):
      types.extend(jax.typeof(f(x, w)) for f in (product, jnp.matmul))
      return jax.lax.psum(jnp.sum(product(x, w)), "device")

    mapped = jax.shard_map(
      run,
      mesh=mesh,
      in_specs=(shared, whole),
      out_specs=whole,
      check_vma=checked,
    )
    self.assert_equal(
      jax.grad(mapped, 1)(x, w), jnp.sum(x, 0)[:, None] + jnp.zeros((3, 5))
    )
    ours, theirs = types[:2]
    self.assertEqual(str(ours), str(theirs))

  def test_dtypes_that_differ(self):
    with self.assertRaisesRegex(ValueError, "of one dtype"):
      product(jnp.zeros((4, 3), jnp.float32), jnp.zeros((3, 5), jnp.float64))
    with self.assertRaisesRegex(ValueError, "of one dtype"):
      products(jnp.zeros((4, 3), jnp.float32), jnp.zeros((3, 5), jnp.float64))


if __name__ == "__main__":
  absltest.main()
