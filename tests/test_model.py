"""The transformer, against loops over heads and positions in numpy."""

import math
from functools import partial
from unittest import mock

import chex
import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized

from induction_jax import model as model_lib
from induction_jax.config import ModelConfig
from induction_jax.model import NO_EDITS, Edits, make_model

V, T, B = 5, 6, 2


def _config(**changes: object) -> ModelConfig:
  values = dict(
    n_layers=2,
    n_heads=2,
    d_model=4,
    d_mlp=0,
    position="rotary",
    norm="layernorm",
    smeared_keys=False,
  )
  return ModelConfig(**{**values, **changes})


def _params(config: ModelConfig, vocab_size: int = V) -> dict:
  """Parameters with nothing left at a special value (ones, zeros)."""
  shapes = jax.eval_shape(
    make_model(config, vocab_size, T).init, jax.random.key(0)
  )
  rng = np.random.default_rng(0)
  return {
    name: jnp.asarray(rng.normal(0.3, 1.0, shapes[name].shape), jnp.float32)
    for name in sorted(shapes)
  }


def _tokens() -> jax.Array:
  rng = np.random.default_rng(0)
  return jnp.asarray(rng.integers(0, V, (B, T)), jnp.int32)


# The oracle: one sequence, one head, one position at a time, in float64.


def _forward(
  config: ModelConfig, params: dict, tokens: np.ndarray, edits: Edits = NO_EDITS
) -> tuple:
  """Logits [T, V], pattern, output and residual as in Activations."""
  p = {name: np.asarray(w, np.float64) for name, w in params.items()}
  length = len(tokens)
  x = [p["w_e"][token] for token in tokens]
  if config.position == "learned":
    x = [x[t] + p["w_pos"][t] for t in range(length)]
  residuals = [np.stack(x)]
  shape = (config.n_layers, config.n_heads, length)
  patterns = np.zeros((*shape, length))
  outputs = np.zeros((*shape, config.d_model))
  for layer in range(config.n_layers):
    y = [_norm(config, p, "norm_scale", layer, v) for v in x]
    for h in range(config.n_heads):
      query, key = [], []
      for t in range(length):
        z = y[t] + p["w_pos"][t] if config.position == "shortformer" else y[t]
        query.append(z @ p["w_q"][layer, h])
        key.append(z @ p["w_k"][layer, h])
      if config.smeared_keys:
        gate = 1 / (1 + math.exp(-p["smear"][layer, h]))
        key = [key[0]] + [
          gate * key[s] + (1 - gate) * key[s - 1] for s in range(1, length)
        ]
      if config.position == "rotary":
        query = [_turn(query[t], t) for t in range(length)]
        key = [_turn(key[t], t) for t in range(length)]
      for t in range(length):
        score = [
          query[t] @ key[s] / math.sqrt(config.d_head) for s in range(t + 1)
        ]
        weight = [math.exp(x - max(score)) for x in score]
        for s in range(t + 1):
          patterns[layer, h, t, s] = weight[s] / sum(weight)
    if edits.pattern:
      patterns[layer] = edits.pattern(layer, patterns[layer], tokens)
    for h, t, s in np.ndindex(config.n_heads, length, length):
      value = y[s] @ p["w_v"][layer, h] @ p["w_o"][layer, h]
      outputs[layer, h, t] += patterns[layer, h, t, s] * value
    if edits.output:
      outputs[layer] = edits.output(layer, outputs[layer])
    added = outputs[layer].sum(axis=0)
    x = [x[t] + added[t] for t in range(length)]
    if config.d_mlp:
      y = [_norm(config, p, "mlp_norm_scale", layer, v) for v in x]
      hidden = [_gelu(v @ p["w_in"][layer]) for v in y]
      x = [x[t] + hidden[t] @ p["w_out"][layer] for t in range(length)]
    residuals.append(np.stack(x))
  x = [_norm(config, p, "final_norm_scale", None, v) for v in x]
  logits = np.stack([v @ p["w_u"] for v in x])
  return logits, patterns, outputs, np.stack(residuals)


def _norm(config, p, name, layer, x):
  if config.norm == "none":
    return x
  scale = p[name] if layer is None else p[name][layer]
  if config.norm == "layernorm":
    x = x - sum(x) / len(x)
  return x / math.sqrt(sum(x * x) / len(x) + 1e-6) * scale


def _turn(x, t):
  """As complex numbers: component i with component i + K / 2."""
  half = len(x) // 2
  turned = [
    complex(x[i], x[i + half]) * np.exp(1j * t * 10_000 ** (-2 * i / len(x)))
    for i in range(half)
  ]
  return np.array([z.real for z in turned] + [z.imag for z in turned])


def _gelu(x):
  inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
  return 0.5 * x * (1 + np.tanh(inner))


def _assert_equal(logits, activations, b, expected):
  """One sequence of a batch against what _forward returned for it."""
  a = activations
  got = (logits[b], a.pattern[:, b], a.output[:, b], a.residual[:, b])
  names = ("logits", "pattern", "output", "residual")
  for name, x, y in zip(names, got, expected):
    np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4, err_msg=name)


class ForwardTest(chex.TestCase):
  @parameterized.parameters(
    dict(),
    dict(norm="none", d_mlp=3, smeared_keys=True),
    dict(norm="rmsnorm", n_heads=1, n_layers=1),
    dict(position="shortformer", d_mlp=3),
    dict(position="shortformer", norm="none", n_layers=1),
    dict(position="shortformer", norm="rmsnorm", smeared_keys=True),
    dict(position="learned", smeared_keys=True, n_heads=4),
    dict(position="learned", norm="none", d_mlp=3, n_layers=3),
  )
  def test_equals_loops(self, **changes):
    config = _config(**changes)
    params, tokens = _params(config), _tokens()
    logits, activations = jax.jit(make_model(config, V, T).apply)(
      params, tokens
    )
    for b in range(B):
      expected = _forward(config, params, np.asarray(tokens[b]))
      _assert_equal(logits, activations, b, expected)

  @parameterized.parameters(
    dict(),
    dict(n_layers=3, d_mlp=3, position="learned"),
  )
  def test_edits_equal_loops(self, **changes):
    # Layer, head, tokens and both places of a pattern matter to these.
    config = _config(**changes)

    def edit_pattern(layer, pattern, tokens):  # [..., H, T, S], [..., T]
      copies = tokens[..., :, None] == tokens[..., None, :]
      other = (layer + 1) * copies[..., None, :, :] / 2
      first = np.array([1.0, 0.0])[:, None, None]
      return first * other + (1 - first) * pattern

    def edit_output(layer, output):  # [..., H, T, D]
      return output * (1 + layer) * np.array([0.5, -1.0])[:, None, None]

    params, tokens = _params(config), _tokens()
    apply = make_model(config, V, T).apply
    for edits in (
      Edits(pattern=edit_pattern),
      Edits(output=edit_output),
      Edits(edit_pattern, edit_output),
    ):
      with jax.numpy_rank_promotion("allow"):
        logits, activations = jax.jit(partial(apply, edits=edits))(
          params, tokens
        )
      for b in range(B):
        expected = _forward(config, params, np.asarray(tokens[b]), edits)
        _assert_equal(logits, activations, b, expected)

  @chex.variants(with_jit=True, without_jit=True)
  def test_value(self):
    config = _config(n_layers=1, n_heads=2, norm="none")
    params, tokens = _params(config), _tokens()
    apply = self.variant(make_model(config, V, T).apply)
    _, activations = apply(params, tokens)
    for h in range(2):
      expected = np.asarray(params["w_e"])[np.asarray(tokens)] @ np.asarray(
        params["w_v"][0, h]
      )
      np.testing.assert_allclose(
        activations.value[0, :, h], expected, rtol=1e-5, atol=1e-5
      )

  @parameterized.parameters(0, 3)
  def test_outputs_are_what_the_residual_receives(self, d_mlp):
    config = _config(norm="none", d_mlp=d_mlp)
    params, tokens = _params(config), _tokens()
    if d_mlp:
      params["w_out"] = jnp.zeros_like(params["w_out"])
    logits, activations = jax.jit(make_model(config, V, T).apply)(
      params, tokens
    )
    residual = np.asarray(params["w_e"])[np.asarray(tokens)]
    residual = residual + np.asarray(activations.output).sum(axis=(0, 2))
    np.testing.assert_allclose(
      logits, residual @ np.asarray(params["w_u"]), rtol=1e-4, atol=1e-4
    )

  def test_short_sequences_are_prefixes(self):
    for position in ("shortformer", "learned"):
      config = _config(position=position)
      params, tokens = _params(config), _tokens()
      apply = jax.jit(make_model(config, V, T).apply)
      whole, _ = apply(params, tokens)
      short, _ = apply(params, tokens[:, :4])
      np.testing.assert_allclose(short, whole[:, :4], rtol=1e-4, atol=1e-4)


class PredictTest(parameterized.TestCase):
  """Query blocks against whole patterns, to the second derivative."""

  def setUp(self):
    super().setUp()
    # Of six positions: a block, and one that is cut short.
    self.enter_context(mock.patch.object(model_lib.attention, "QUERY_BLOCK", 4))

  @parameterized.parameters(
    dict(),
    dict(position="shortformer", smeared_keys=True, norm="rmsnorm", d_mlp=3),
  )
  def test_equals_apply(self, **changes):
    config = _config(**changes)
    model, params, tokens = make_model(config, V, T), _params(config), _tokens()
    rng = np.random.default_rng(1)
    vector = jax.tree.map(
      lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), params
    )
    weight = jnp.asarray(rng.normal(size=(B, T, V)), jnp.float32)

    @partial(jax.jit, static_argnums=0)
    def derivatives(predict, params):
      def loss(params):
        return jnp.sum(weight * jax.nn.log_softmax(predict(params, tokens)))

      grad, product = jax.jvp(jax.grad(loss), (params,), (vector,))
      return predict(params, tokens), grad, product

    got = derivatives(model.predict, params)
    expected = derivatives(lambda *args: model.apply(*args)[0], params)
    self.assertGreater(float(optax.tree.norm(expected[2])), 1)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected)):
      scale = float(jnp.abs(b).max())
      np.testing.assert_allclose(a, b, rtol=1e-4, atol=3e-5 * scale)

  def test_is_causal(self):
    # A token of its own at each position, so that w_e is what comes in.
    model, params = make_model(_config(), T, T), _params(_config(), T)

    def at(x, t):
      embedded = params | {"w_e": x}
      return jnp.sum(model.predict(embedded, jnp.arange(T)[None])[0, t])

    x = jnp.asarray(np.random.default_rng(0).normal(size=(T, 4)), jnp.float32)
    grads = jax.jit(jax.vmap(jax.grad(at), (None, 0)))(x, jnp.arange(T))
    reached = np.abs(grads).max(axis=-1) > 0  # [T, S]
    np.testing.assert_array_equal(reached, np.tri(T, dtype=bool))

  def test_large_scores(self):
    config = _config()
    model, params = make_model(config, V, T), _params(config)
    params["w_q"] *= 1e4  # exp() of a score is infinite, or zero everywhere
    got = jax.jit(model.predict)(params, _tokens())
    expected = jax.jit(model.apply)(params, _tokens())[0]
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


class CausalityTest(parameterized.TestCase):
  @parameterized.parameters(
    dict(),
    dict(position="shortformer", smeared_keys=True, d_mlp=3),
    dict(position="learned", norm="rmsnorm"),
  )
  def test_by_gradient(self, **changes):
    # Every position has a token of its own, so the derivative with respect to
    # an embedding is with respect to that position.
    config = _config(**changes)
    params = _params(config, vocab_size=T)
    tokens = jnp.arange(T, dtype=jnp.int32)[None]
    model = make_model(config, T, T)

    def logits(w_e):
      return model.apply({**params, "w_e": w_e}, tokens)[0][0]

    jacobian = np.asarray(jax.jit(jax.jacrev(logits))(params["w_e"]))
    reach = np.abs(jacobian).max(axis=(1, 3))  # [T, S]
    for t in range(T):
      for s in range(T):
        if s > t:
          self.assertEqual(reach[t, s], 0, f"{t} sees {s}")
        else:
          self.assertGreater(reach[t, s], 1e-6, f"{t} does not see {s}")

  def test_pattern_rows(self):
    config = _config()
    _, activations = jax.jit(make_model(config, V, T).apply)(
      _params(config), _tokens()
    )
    pattern = np.asarray(activations.pattern)
    self.assertEqual(pattern.shape, (2, B, 2, T, T))
    np.testing.assert_allclose(pattern.sum(axis=-1), 1, rtol=1e-5)
    self.assertEqual(np.abs(np.triu(pattern, 1)).max(), 0)
    self.assertGreater(np.diagonal(pattern, axis1=3, axis2=4).min(), 0)


class PositionsTest(chex.TestCase):
  @chex.variants(with_jit=True, without_jit=True)
  def test_rotary_depends_on_the_distance_alone(self):
    rng = np.random.default_rng(0)
    q, k = rng.normal(size=(2, 1, 6)).astype(np.float32)
    rotate = self.variant(model_lib.rotate)

    def score(t, s):
      a = rotate(jnp.asarray(q), t)
      b = rotate(jnp.asarray(k), s)
      return float(np.asarray(a)[0] @ np.asarray(b)[0])

    for distance in (0, 1, 3):
      scores = [score(s + distance, s) for s in (0, 2, 9)]
      np.testing.assert_allclose(scores, scores[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(score(4, 4), float(q[0] @ k[0]), rtol=1e-4)
    self.assertGreater(abs(score(2, 0) - score(0, 0)), 0.1)
    self.assertGreater(abs(score(3, 0) - score(0, 3)), 0.05)

  def test_rotary_is_an_offset_of_places(self):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 4)))
    np.testing.assert_allclose(
      model_lib.rotate(x)[:, 2:],
      model_lib.rotate(x[:, 2:], 2),
      rtol=1e-5,
      atol=1e-6,
    )

  def test_shortformer_positions_stop_at_queries_and_keys(self):
    # Equal tokens: the values and the residual see no position, so whatever
    # the heads attend to, every position computes the same.
    config = _config(position="shortformer", norm="none", d_mlp=3)
    params = _params(config)
    tokens = jnp.full((1, T), 3, jnp.int32)
    logits, activations = jax.jit(make_model(config, V, T).apply)(
      params, tokens
    )
    value = np.asarray(activations.value)
    np.testing.assert_allclose(
      value, value[..., :1, :].repeat(T, axis=-2), rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(
      logits, logits[:, :1].repeat(T, axis=1), rtol=1e-4, atol=1e-3
    )
    # And yet the heads do see it: attention is not uniform.
    self.assertGreater(
      np.ptp(np.asarray(activations.pattern)[0, 0, 0, -1]), 0.1
    )

  def test_learned_positions_reach_the_residual(self):
    config = _config(position="learned", norm="none")
    logits, _ = jax.jit(make_model(config, V, T).apply)(
      _params(config), jnp.full((1, T), 3, jnp.int32)
    )
    self.assertGreater(
      np.abs(np.asarray(logits[0, 1] - logits[0, 0])).max(), 0.1
    )


def _result_shapes(jaxpr: jax.extend.core.Jaxpr) -> list[tuple[int, ...]]:
  """Of every operation, inside of called functions too."""
  shapes = []
  for equation in jaxpr.eqns:
    inner = equation.params.get("jaxpr")
    if inner is None:
      shapes += [x.aval.shape for x in equation.outvars]
    else:
      shapes += _result_shapes(getattr(inner, "jaxpr", inner))
  return shapes


class ParametersTest(parameterized.TestCase):
  @parameterized.parameters(
    (dict(), {"norm_scale": (2, 8), "final_norm_scale": (8,)}),
    (dict(norm="none"), {}),
    (
      dict(norm="rmsnorm", position="learned"),
      {
        "norm_scale": (2, 8),
        "final_norm_scale": (8,),
        "w_pos": (9, 8),
      },
    ),
    (
      dict(norm="none", position="shortformer", smeared_keys=True),
      {"w_pos": (9, 8), "smear": (2, 4)},
    ),
    (
      dict(d_mlp=5),
      {
        "norm_scale": (2, 8),
        "final_norm_scale": (8,),
        "mlp_norm_scale": (2, 8),
        "w_in": (2, 8, 5),
        "w_out": (2, 5, 8),
      },
    ),
    (dict(norm="none", d_mlp=5), {"w_in": (2, 8, 5), "w_out": (2, 5, 8)}),
  )
  def test_names_and_shapes(self, changes, extra):
    config = _config(n_heads=4, d_model=8, **changes)
    init = make_model(config, 7, 9).init
    shapes = jax.eval_shape(init, jax.random.key(0))
    expected = {
      "w_e": (7, 8),
      "w_q": (2, 4, 8, 2),
      "w_k": (2, 4, 8, 2),
      "w_v": (2, 4, 8, 2),
      "w_o": (2, 4, 2, 8),
      "w_u": (8, 7),
      **extra,
    }
    self.assertEqual({k: v.shape for k, v in shapes.items()}, expected)
    self.assertEqual({v.dtype for v in shapes.values()}, {jnp.dtype("float32")})

  def test_initial_values(self):
    config = _config(
      d_model=64, d_mlp=16, smeared_keys=True, position="learned"
    )
    params = jax.jit(make_model(config, 40, 30).init)(jax.random.key(0))
    for name, deviation in (
      ("w_e", 1 / 8),
      ("w_q", 1 / 8),
      ("w_k", 1 / 8),
      ("w_v", 1 / 8),
      ("w_o", 1 / 8),
      ("w_u", 1 / 8),
      ("w_pos", 1 / 8),
      ("w_in", 1 / 8),
      ("w_out", 1 / 4),
    ):
      self.assertAlmostEqual(
        float(params[name].std()) / deviation, 1, delta=0.1, msg=name
      )
    for name in ("norm_scale", "mlp_norm_scale", "final_norm_scale"):
      self.assertTrue(np.all(np.asarray(params[name]) == 1), name)
    self.assertTrue(np.all(np.asarray(params["smear"]) == 0))
    self.assertGreater(
      np.abs(np.asarray(params["w_q"] - params["w_k"])).max(), 0.1
    )

  @parameterized.parameters((1, 1), (3, 1), (1, 4), (2, 2))
  def test_layers_and_heads(self, n_layers, n_heads):
    config = _config(n_layers=n_layers, n_heads=n_heads, d_model=8)
    model = make_model(config, V, T)

    def run(key):
      return model.apply(model.init(key), jnp.zeros((B, T), jnp.int32))

    logits, activations = jax.eval_shape(run, jax.random.key(0))
    self.assertEqual(logits.shape, (B, T, V))
    head = (n_layers, B, n_heads, T)
    self.assertEqual(activations.pattern.shape, (*head, T))
    self.assertEqual(activations.value.shape, (*head, 8 // n_heads))
    self.assertEqual(activations.output.shape, (*head, 8))

  @parameterized.parameters(2, 5)
  def test_derivative_holds_a_stacked_weight_once(self, n_layers):
    config = _config(n_layers=n_layers, n_heads=3, d_model=12, d_mlp=7)
    model, params = make_model(config, V, T), _params(config)

    def loss(params: dict) -> jax.Array:
      return jnp.sum(model.predict(params, _tokens()))

    shapes = _result_shapes(jax.make_jaxpr(jax.grad(loss))(params).jaxpr)
    for name in ("w_in", "w_out", "w_o"):
      self.assertEqual(shapes.count(params[name].shape), 1, name)

  @parameterized.parameters("rotary", "learned")
  def test_too_long_a_sequence(self, position):
    config = _config(position=position)
    apply = make_model(config, V, T).apply
    with self.assertRaisesRegex(
      ValueError, "at most seq_length=6 positions, got 7"
    ):
      apply(_params(config), jnp.zeros((1, 7), jnp.int32))


if __name__ == "__main__":
  absltest.main()
