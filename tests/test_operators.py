"""Operators against dense matrices, their memory plans, and their errors."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from jax.flatten_util import ravel_pytree

from induction_jax import spectra
from induction_jax.config import ModelConfig
from induction_jax.model import losses, make_model
from induction_jax.training.step import make_loss
from induction_jax.types import Batch

# A network of 33 parameters and three classes. Of its eight examples five
# count; in the first micro-batch of two, none does.
COUNTS = np.array([0, 0, 1, 0, 1, 1, 1, 1])
CLASSES = 3


def _predict(params, batch):
  hidden = jnp.tanh(batch["x"] @ params["u"] + params["b"][None])
  return hidden @ params["w"]  # [n, CLASSES]


def _losses(params, batch):
  return losses.token_losses(_predict(params, batch), batch["y"])


def _weights(batch):
  return batch["counts"]


def _criterion(logits, batch):
  # 0 / 0 if no example counts, as it may be in a user's own loss.
  terms = losses.token_losses(logits, batch["y"])
  return jnp.sum(terms * batch["counts"]) / jnp.sum(batch["counts"])


def _loss(params, batch):
  return _criterion(_predict(params, batch), batch)


def _params(dtype=np.float64):
  rng = np.random.default_rng(0)
  shapes = {"b": (4,), "u": (3, 4), "w": (4, CLASSES)}
  return {
    name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()
  }


def _batch(dtype=np.float64):
  rng = np.random.default_rng(1)
  return {
    "x": rng.normal(size=(8, 3)).astype(dtype),
    "y": rng.integers(CLASSES, size=8),
    "counts": COUNTS.astype(dtype),
  }


def _data(size, dtype=np.float64):
  return spectra.split_batch(_batch(dtype), jnp.asarray(COUNTS), size)


def _make(name, params, data):
  return {
    "hessian": lambda: spectra.hessian(_loss, params, data),
    "gauss_newton": lambda: spectra.gauss_newton(
      _predict, _criterion, params, data
    ),
    "exact_fisher": lambda: spectra.exact_fisher(
      _predict, _criterion, params, data
    ),
    "empirical_fisher": lambda: spectra.empirical_fisher(
      _losses, _weights, params, data
    ),
    "functional": lambda: spectra.subtract(
      _make("hessian", params, data), _make("gauss_newton", params, data)
    ),
  }[name]()


NAMES = (
  "hessian",
  "gauss_newton",
  "exact_fisher",
  "empirical_fisher",
  "functional",
)


@functools.cache
def _expected() -> dict[str, np.ndarray]:
  """Each matrix by its definition, without micro-batches, in float64."""
  params, batch = _params(), _batch()
  share = COUNTS / COUNTS.sum()

  def differentiate(flat):
    # The gradient of every example under every possible label.
    labels = jnp.tile(jnp.arange(CLASSES)[:, None], (1, 8))
    under = [
      jax.jacrev(lambda x, y=y: _losses(unravel(x), batch | {"y": y}))(flat)
      for y in labels
    ]
    return (
      jax.hessian(lambda x: _loss(unravel(x), batch))(flat),
      jax.nn.softmax(_predict(params, batch)),
      jax.jacrev(lambda x: _predict(unravel(x), batch))(flat),
      jnp.stack(under, axis=1),  # [n, CLASSES, P]
    )

  with jax.enable_x64(True):
    flat, unravel = ravel_pytree(params)
    hessian, p, jacobian, under = jax.tree.map(
      np.asarray, jax.jit(differentiate)(flat)
    )
  curvature = np.eye(CLASSES)[None] * p[:, None] - p[:, None] * p[:, :, None]
  gauss_newton = np.einsum(
    "n,nci,ncd,ndj->ij", share, jacobian, curvature, jacobian
  )
  true = under[np.arange(8), batch["y"]]
  return {
    "hessian": hessian,
    "gauss_newton": gauss_newton,
    "exact_fisher": np.einsum("n,nc,nci,ncj->ij", share, p, under, under),
    "empirical_fisher": np.einsum("n,ni,nj->ij", share, true, true),
    "functional": hessian - gauss_newton,
  }


@functools.cache
def _matrix(name: str, linear_map: bool) -> np.ndarray:
  def build(params, data):
    operator = _make(name, params, data)
    return spectra.linearize(operator, params) if linear_map else operator

  with jax.enable_x64(True):
    params, data = _params(), _data(2)
    operator = jax.jit(build)(params, data)
    return np.asarray(jax.jit(spectra.dense)(operator, params))


class DenseTest(parameterized.TestCase):
  @parameterized.product(name=NAMES, linear_map=(False, True))
  def test_equals_dense(self, name, linear_map):
    # Micro-batches with unequal weights, one of them zero.
    np.testing.assert_allclose(
      _matrix(name, linear_map), _expected()[name], rtol=1e-9, atol=1e-12
    )

  def test_parts_add_up(self):
    np.testing.assert_allclose(
      _matrix("gauss_newton", False) + _matrix("functional", False),
      _matrix("hessian", False),
      rtol=1e-12,
      atol=1e-14,
    )

  def test_exact_and_empirical_fisher_differ(self):
    # Otherwise the tests above could not distinguish them.
    exact, empirical = (
      _expected()[name] for name in ("exact_fisher", "empirical_fisher")
    )
    np.testing.assert_allclose(exact, _expected()["gauss_newton"], rtol=1e-7)
    self.assertGreater(np.abs(exact - empirical).max(), 0.1)

  def test_restrict(self):
    mask = {
      "b": False,
      "u": np.array([[True], [False], [True]]),
      "w": np.array([[True, False, True]]),
    }
    keep = ravel_pytree(
      jax.tree.map(lambda m, x: np.broadcast_to(m, x.shape), mask, _params())
    )[0]
    with jax.enable_x64(True):
      operator = spectra.hessian(_loss, _params(), _data(2))
      restricted = spectra.restrict(operator, mask)
      got = jax.jit(spectra.dense)(restricted, _params())
    keep = np.asarray(keep, bool)
    self.assertEqual(keep.sum(), 8 + 8)
    np.testing.assert_allclose(
      got,
      np.where(keep[:, None] & keep, _expected()["hessian"], 0),
      rtol=1e-9,
      atol=1e-12,
    )

  def test_restrict_refuses_a_mask_of_fewer_axes(self):
    restricted = spectra.restrict(lambda v: v, {"a": np.ones(3, bool)})
    with self.assertRaisesRegex(ValueError, r"as many axes as its leaf, 2"):
      restricted({"a": jnp.ones((4, 3))})

  def test_messages_for_wrong_batches_and_parameters(self):
    params, batch = _params(np.float32), _batch(np.float32)
    with self.assertRaisesRegex(TypeError, "cut the batch with split_batch"):
      spectra.hessian(_loss, params, batch)
    counted = params | {"step": np.array(3)}
    data = spectra.split_batch(batch, COUNTS, 2)
    with self.assertRaisesRegex(TypeError, "got float32, int"):
      spectra.hessian(_loss, counted, data)
    for counts, size, message in (
      (COUNTS, 0, "size must be at least 1"),
      (COUNTS, -4, "size must be at least 1"),
      (COUNTS[:4], 2, "as many examples as counts has, 4, got shape"),
    ):
      with self.assertRaisesRegex(ValueError, message):
        spectra.split_batch(batch, counts, size)

  def test_restrict_needs_masks_that_fit(self):
    restricted = spectra.restrict(lambda v: v, {"a": np.ones((2, 3), bool)})
    with self.assertRaisesRegex(ValueError, r"bool\[2,3\].*bool\[1,3\]"):
      restricted({"a": jnp.ones((1, 3))})

  def test_restrict_drops_values_that_are_not_finite(self):
    def operator(v):
      return {"a": 2 * v["a"], "b": jnp.full(2, jnp.nan)}

    restricted = spectra.restrict(operator, {"a": True, "b": False})
    got = restricted({"a": jnp.ones(1), "b": jnp.full(2, jnp.inf)})
    chex.assert_trees_all_equal(got, {"a": np.full(1, 2.0), "b": np.zeros(2)})

  def test_gradient_and_masked_micro_batches(self):
    with jax.enable_x64(True):
      got = spectra.gradient(_loss, _params(), _data(1))
      expected = jax.grad(_loss)(_params(), _batch())
      chex.assert_trees_all_close(got, expected, rtol=1e-10, atol=1e-13)

  def test_zero_if_no_example_counts(self):
    data = spectra.split_batch(_batch(np.float32), jnp.zeros(8, int), 4)
    np.testing.assert_array_equal(data.weights, [0, 0])
    params = _params(np.float32)
    product = spectra.hessian(_loss, params, data)(params)
    chex.assert_trees_all_equal(product, jax.tree.map(np.zeros_like, params))


class MemoryTest(parameterized.TestCase):
  def _plan(self, memory, examples=8):
    make = functools.partial(spectra.hessian, _loss)
    shapes = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), _params(np.float32)
    )
    batch = jax.tree.map(lambda x: x[:examples], _batch(np.float32))
    return spectra.plan_products(make, shapes, batch, memory=memory)

  @parameterized.parameters(1, 2, 8)
  def test_bytes_are_those_of_the_linear_map(self, size):
    params, data = _params(np.float32), _data(size, np.float32)
    operator = spectra.hessian(_loss, params, data)
    linear_map = jax.jit(spectra.linearize)(operator, params)
    expected = sum(x.nbytes for x in jax.tree.leaves(linear_map))
    self.assertEqual(spectra.linear_map_bytes(operator, params), expected)
    self.assertGreater(expected, 8 * 4 * 4)  # at least the hidden layer

  def test_plan_follows_memory(self):
    full = self._plan(10**9)
    self.assertEqual(str(full), "linear map")
    self.assertEqual(full.micro_batch_size, 8)
    self.assertEqual(self._plan(full.bytes), full)
    sizes, memory = [], full.bytes
    while not sizes or sizes[-1] > 1:
      plan = self._plan(memory - 1)
      self.assertFalse(plan.linear_map)
      self.assertLess(plan.bytes, memory)
      sizes.append(plan.micro_batch_size)
      memory = plan.bytes
    self.assertEqual(sizes, [4, 2, 1])
    self.assertEqual(str(plan), "streamed, micro-batch of 1")
    # Less memory than one example needs: the plan's bytes show it.
    self.assertEqual(self._plan(1), plan)
    self.assertFalse(self._plan(plan.bytes - 1, examples=1).linear_map)
    self.assertTrue(self._plan(plan.bytes, examples=1).linear_map)

  @parameterized.parameters(
    (10**6, 50), (400 * 50, 50), (400 * 49, 49), (400 * 17, 17), (1, 17)
  )
  def test_basis_follows_memory(self, memory, rows):
    like = {"a": jnp.zeros(60), "b": jnp.zeros((4, 10))}
    got = spectra.plan_basis(like, wanted=2, max_order=50, memory=memory)
    self.assertEqual(got, rows)
    # Lanczos accepts every planned size, including the smallest.
    shape = jax.eval_shape(
      functools.partial(
        spectra.lanczos,
        lambda v: v,
        like,
        k_top=1,
        k_bottom=1,
        max_order=50,
        tolerance=0.1,
        max_basis=got,
      ),
      jax.random.key(0),
    )
    self.assertEqual(shape.top.values.shape, (1,))

  def test_plan_needs_memory(self):
    with self.assertRaisesRegex(ValueError, "must be positive, got 0"):
      self._plan(0)


def _fused_tanh(x):
  return jax.pure_callback(np.tanh, x, x, vmap_method="sequential")


def _make_kernel(forward):
  """A tanh with a gradient but no jvp rule, like fused attention."""
  kernel = jax.custom_vjp(forward)
  kernel.defvjp(
    lambda x: (forward(x), forward(x)), lambda y, g: (g * (1 - y**2),)
  )
  return kernel


class ErrorTest(parameterized.TestCase):
  @parameterized.parameters(
    (lambda p, b: _losses(p, b), r"loss must return one scalar.*\(\(2,\), 'fl"),
    (lambda p, b: (_loss(p, b), 1.0), r"one scalar.*\(\(\), 'float32'\), \(\("),
    (lambda p, b: jnp.argmax(_predict(p, b)), "a real number, got int32"),
  )
  def test_loss_is_not_a_scalar(self, loss, message):
    params, data = _params(np.float32), _data(2, np.float32)
    for make in (spectra.hessian, spectra.gradient):
      with self.assertRaisesRegex(TypeError, message):
        make(loss, params, data)

  def test_criterion_is_not_a_scalar(self):
    params, data = _params(np.float32), _data(2, np.float32)
    with self.assertRaisesRegex(TypeError, "criterion must return one scalar"):
      spectra.gauss_newton(_predict, lambda y, b: y, params, data)

  @parameterized.parameters(
    ("hessian", _make_kernel(_fused_tanh)),  # no jvp of the kernel's forward
    ("hessian", _make_kernel(_make_kernel(jnp.tanh))),
    ("gauss_newton", _make_kernel(jnp.tanh)),
  )
  def test_kernel_without_a_jvp_rule(self, name, kernel):
    params, data = _params(np.float32), _data(2, np.float32)

    def predict(params, batch):
      return _predict(jax.tree.map(kernel, params), batch)

    def loss(params, batch):
      return _criterion(predict(params, batch), batch)

    # It has a gradient, so training would not have failed.
    jax.eval_shape(lambda p: spectra.gradient(loss, p, data), params)
    with self.assertRaisesRegex(TypeError, "attention by einsum.*The cause"):
      if name == "hessian":
        spectra.hessian(loss, params, data)
      else:
        spectra.gauss_newton(predict, _criterion, params, data)

  def test_other_errors_pass_through(self):
    params, data = _params(np.float32), _data(2, np.float32)
    with self.assertRaisesRegex(KeyError, "no_such"):
      spectra.hessian(lambda p, b: p["no_such"], params, data)


class CheckOperatorTest(parameterized.TestCase):
  def _check(self, matrix, **kwargs):
    matrix = jnp.asarray(matrix, jnp.float32)
    like = {"a": jnp.zeros(3), "b": jnp.zeros((1, 2))}
    unravel = ravel_pytree(like)[1]

    def operator(v):
      return unravel(jnp.dot(matrix, ravel_pytree(v)[0], precision="highest"))

    spectra.check_operator(operator, like, jax.random.key(0), **kwargs)

  def test_accepts(self):
    a = np.random.default_rng(0).normal(size=(5, 5))
    self._check(a + a.T)
    self._check(1e-12 * (a + a.T))
    self._check(np.zeros((5, 5)))
    self._check(a + a.T + 1e-3 * a, tolerance=1e-2)

  @parameterized.parameters(1.0, 1e-2)
  def test_not_symmetric(self, amount):
    a = np.random.default_rng(0).normal(size=(5, 5))
    with self.assertRaisesRegex(ValueError, "must be symmetric"):
      self._check(a + a.T + amount * a)

  @parameterized.parameters(np.nan, np.inf)
  def test_not_finite(self, value):
    a = np.eye(5)
    a[2, 2] = value
    with self.assertRaisesRegex(FloatingPointError, "not finite"):
      self._check(a)

  def test_accepts_the_rounding_of_a_network(self):
    # Weights large enough for the softmax to cancel.
    params = jax.tree.map(lambda x: 8 * x, _params(np.float32))
    operator = spectra.hessian(_loss, params, _data(2, np.float32))
    spectra.check_operator(operator, params, jax.random.key(1))


def _random_batch(vocab_size, batch_size, length):
  rng = np.random.default_rng(0)
  tokens = rng.integers(vocab_size, size=(batch_size, length + 1))
  return Batch(
    tokens=jnp.asarray(tokens[:, :-1]),
    targets=jnp.asarray(tokens[:, 1:]),
    predictable=jnp.ones((batch_size, length), bool),
  )


# A linear symmetry of the loss, theta -> theta + epsilon A theta, is an oracle
# at any size: differentiating L in epsilon and theta gives
# H (A theta) = -A^T grad L.


@functools.cache
def _large() -> tuple:
  """Operator, parameters and gradient of a network of a million parameters."""
  config = ModelConfig(2, 4, 256, 0, "learned", "layernorm", False)
  model = make_model(config, 1000, 16)
  params = jax.jit(model.init)(jax.random.key(0))
  loss = make_loss(model, losses.make_weights("all"))
  data = spectra.split_batch(_random_batch(1000, 2, 16), jnp.ones(2), 1)
  product = jax.jit(lambda p, d, v: spectra.hessian(loss, p, d)(v))
  grad = jax.jit(lambda p, d: spectra.gradient(loss, p, d))(params, data)
  return functools.partial(product, params, data), params, grad


class SymmetryTest(parameterized.TestCase):
  @parameterized.parameters("qk", "ov")
  def test_heads(self, circuit):
    # To first order W_Q (1 + epsilon a) and W_K (1 - epsilon a^T) give the same
    # scores for any matrix a, and W_V and W_O the same outputs.
    product, params, grad = _large()
    self.assertGreater(sum(x.size for x in params.values()), 10**6)
    a = np.random.default_rng(0).normal(size=(2, 4, 64, 64)).astype(np.float32)
    moved = jax.tree.map(np.zeros_like, jax.device_get(params))
    expected = jax.tree.map(np.zeros_like, moved)
    if circuit == "qk":
      moved["w_q"] = params["w_q"] @ a
      moved["w_k"] = -params["w_k"] @ a.swapaxes(2, 3)
      expected["w_q"] = -grad["w_q"] @ a.swapaxes(2, 3)
      expected["w_k"] = grad["w_k"] @ a
    else:
      moved["w_v"] = params["w_v"] @ a
      moved["w_o"] = -a @ params["w_o"]
      expected["w_v"] = -grad["w_v"] @ a.swapaxes(2, 3)
      expected["w_o"] = a.swapaxes(2, 3) @ grad["w_o"]
    got = product(moved)
    error = jax.tree.map(lambda x, y: np.asarray(x - y), got, expected)
    self.assertLess(_norm(error), 1e-5 * _norm(expected))

  def test_unembedding_shift(self):
    # Adding one vector to every column changes no probability.
    product, params, _ = _large()
    rng = np.random.default_rng(0)
    still = jax.tree.map(np.zeros_like, jax.device_get(params))
    shift = rng.normal(size=(256, 1)).astype(np.float32)
    shifted = product(still | {"w_u": np.tile(shift, (1, 1000))})
    other = rng.normal(size=(256, 1000)).astype(np.float32)
    self.assertLess(
      _norm(shifted), 1e-5 * _norm(product(still | {"w_u": other}))
    )


def _norm(tree) -> float:
  return (
    sum(
      float(np.sum(np.square(x, dtype=np.float64)))
      for x in jax.tree.leaves(tree)
    )
    ** 0.5
  )


if __name__ == "__main__":
  absltest.main()
