"""Attention scores, circuits and composition against loops and sampling."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from induction_jax import circuits, tasks
from induction_jax.config import ModelConfig
from induction_jax.model import make_model
from induction_jax.types import Batch

L, H, D, K, V = 2, 3, 12, 4, 9


def random_pattern(key, n_layers, batch, n_heads, length):
  scores = jax.random.normal(key, (n_layers, batch, n_heads, length, length))
  causal = jnp.tri(length, dtype=bool)
  return jax.nn.softmax(jnp.where(causal, scores, -jnp.inf), axis=-1)


def sample_batch(seed=0, batch=3, length=24, vocab=11):
  return tasks.sample_repeats(
    jax.random.key(seed), batch, vocab, length, pattern=(3, 5), gap=(0, 3)
  )


def gaussian_weights(seed=0):
  shapes = (
    (V, D),
    (L, H, D, K),
    (L, H, D, K),
    (L, H, D, K),
    (L, H, K, D),
    (D, V),
  )
  like = circuits.CircuitWeights(*(jnp.zeros(s) for s in shapes))
  return circuits.random_weights(jax.random.key(seed), like)


def as_numpy(weights):
  return jax.tree.map(lambda x: np.asarray(x, np.float64), weights)


class AttentionTest(parameterized.TestCase):
  def test_scores_equal_loops(self):
    batch = sample_batch()
    pattern = random_pattern(jax.random.key(1), L, 3, H, 24)
    got = circuits.score_heads(pattern, batch)
    a, tokens = np.asarray(pattern, np.float64), np.asarray(batch.tokens)
    predictable = np.asarray(batch.predictable)
    for layer in range(L):
      for head in range(H):
        prefix, previous, duplicate = [], [], []
        for b in range(3):
          for t in range(24):
            row = a[layer, b, head, t]
            if t >= 1:
              previous.append(row[t - 1])
            if predictable[b, t]:
              earlier = [s for s in range(t) if tokens[b, s] == tokens[b, t]]
              prefix.append(sum(row[s + 1] for s in earlier))
              duplicate.append(sum(row[s] for s in earlier))
        expected = (np.mean(prefix), np.mean(previous), np.mean(duplicate))
        np.testing.assert_allclose(
          [score[layer, head] for score in got], expected, rtol=1e-5
        )

  def test_null_is_the_score_of_uniform_attention(self):
    batch = sample_batch(seed=3)
    length = batch.tokens.shape[1]
    uniform = np.tri(length) / np.arange(1, length + 1)[:, None]
    pattern = np.broadcast_to(uniform, (1, 3, 1, length, length))
    expected = circuits.score_heads(jnp.asarray(pattern), batch)
    null = circuits.null_scores(batch)
    for got, want in zip(null, expected, strict=True):
      self.assertEqual(got.shape, ())
      np.testing.assert_allclose(got, want[0, 0], rtol=1e-5)

  def test_null_is_the_mean_of_random_attention(self):
    # Softmax rows of exchangeable scores are uniform on average.
    batch = sample_batch(seed=4, batch=16)
    pattern = random_pattern(jax.random.key(2), 20, 16, 10, 24)
    scores = circuits.score_heads(pattern, batch)
    for got, null in zip(scores, circuits.null_scores(batch), strict=True):
      error = np.std(got) / np.sqrt(got.size)
      self.assertLess(abs(np.mean(got) - null), 4 * error)

  def test_perfect_induction_head_scores_one(self):
    batch = sample_batch(seed=5)
    mask = circuits.prefix_mask(batch.tokens).astype(jnp.float32)
    rows = mask / jnp.maximum(mask.sum(axis=-1, keepdims=True), 1)
    scores = circuits.score_heads(rows[None, :, None], batch)
    np.testing.assert_allclose(scores.prefix_matching, 1, rtol=1e-6)

  def test_perfect_previous_token_head_scores_one(self):
    batch = sample_batch(seed=5)
    rows = jnp.broadcast_to(jnp.eye(24, k=-1), (1, 3, 1, 24, 24))
    scores = circuits.score_heads(rows, batch)
    np.testing.assert_allclose(scores.previous_token, 1)

  def test_nothing_predictable_scores_zero(self):
    batch = Batch(
      tokens=jnp.arange(6)[None],
      targets=jnp.arange(1, 7)[None],
      predictable=jnp.zeros((1, 6), bool),
    )
    pattern = random_pattern(jax.random.key(0), 1, 1, 1, 6)
    scores = circuits.score_heads(pattern, batch)
    self.assertEqual(float(scores.prefix_matching[0, 0]), 0)


class WeightsTest(parameterized.TestCase):
  def test_eigenvalues_are_those_of_the_full_circuits(self):
    weights = gaussian_weights()
    n = as_numpy(weights)
    ov = circuits.eigenvalues(circuits.copying_matrices(weights))
    qk = circuits.eigenvalues(circuits.matching_matrices(weights))
    for layer in range(L):
      for head in range(H):
        i = (layer, head)
        full_ov = n.w_e @ n.w_v[i] @ n.w_o[i] @ n.w_u
        full_qk = n.w_e @ n.w_q[i] @ n.w_k[i].T @ n.w_e.T
        self.assert_same_spectrum(ov[i], full_ov)
        self.assert_same_spectrum(qk[i], full_qk)

  def assert_same_spectrum(self, got, matrix):
    full = np.linalg.eigvals(matrix)
    full = full[np.argsort(-np.abs(full))][: len(got)]
    np.testing.assert_allclose(
      np.sort_complex(np.round(got, 3)),
      np.sort_complex(np.round(full.astype(complex), 3)),
      atol=2e-3 * np.abs(full).max(),
    )
    self.assertAlmostEqual(
      float(circuits.eigenvalue_score(got)),
      full.real.sum() / np.abs(full).sum(),
      places=4,
    )

  def test_scores_of_signed_identities(self):
    eye = np.eye(4)
    for matrix, score in ((eye, 1.0), (-eye, -1.0), (0 * eye, 0.0)):
      values = circuits.eigenvalues(matrix)
      self.assertEqual(float(circuits.eigenvalue_score(values)), score)
    rotation = np.array([[0.0, -1.0], [1.0, 0.0]])  # eigenvalues +-i
    values = circuits.eigenvalues(rotation)
    self.assertAlmostEqual(float(circuits.eigenvalue_score(values)), 0)

  def test_random_circuits_have_mean_zero_and_the_stated_spread(self):
    # The design states 1.5 to 2 / K, from this sampling.
    scores = np.stack(
      [
        circuits.eigenvalue_score(
          circuits.eigenvalues(
            circuits.copying_matrices(gaussian_weights(seed=seed))
          )
        )
        for seed in range(40)
      ]
    )
    error = scores.std() / np.sqrt(scores.size)
    self.assertLess(abs(scores.mean()), 4 * error)
    self.assertBetween(scores.std(), 1.0 / K, 2.2 / K)
    # The figures shade two standard deviations.
    self.assertBetween(np.mean(np.abs(scores) < 2 * scores.std()), 0.9, 0.99)

  @parameterized.parameters("layernorm", "rmsnorm", "none")
  def test_folded_weights_equal_norm_then_weights(self, norm):
    config = ModelConfig(
      n_layers=1,
      n_heads=2,
      d_model=8,
      d_mlp=0,
      position="rotary",
      norm=norm,
      smeared_keys=False,
    )
    params = make_model(config, V, 6).init(jax.random.key(0))
    if norm != "none":
      params = params | {
        "norm_scale": jax.random.normal(jax.random.key(1), (1, 8)),
        "final_norm_scale": jax.random.normal(jax.random.key(2), (8,)),
      }
    folded = circuits.fold_norms(params, norm)
    x = np.asarray(jax.random.normal(jax.random.key(3), (8,)), np.float64)
    y = x - x.mean() if norm == "layernorm" else x
    scale = np.asarray(params.get("norm_scale", np.ones((1, 8))))[0]
    final = np.asarray(params.get("final_norm_scale", np.ones(8)))
    for name in ("w_q", "w_k", "w_v"):
      expected = (y * scale) @ np.asarray(params[name])[0, 1]
      got = x @ np.asarray(getattr(folded, name))[0, 1]
      np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    expected = (y * final) @ np.asarray(params["w_u"])
    np.testing.assert_allclose(
      x @ np.asarray(folded.w_u), expected, rtol=1e-4, atol=1e-5
    )


class CompositionTest(parameterized.TestCase):
  def test_equals_dense_products(self):
    weights = gaussian_weights(seed=1)
    n = as_numpy(weights)
    qk = np.einsum("lhdk,lhek->lhde", n.w_q, n.w_k)
    ov = np.einsum("lhdk,lhke->lhde", n.w_v, n.w_o)
    got = circuits.composition(weights)
    matching = circuits.k_composed_matrices(weights)
    virtual = circuits.virtual_copying_matrices(weights)
    norm = np.linalg.norm
    for h2 in range(H):
      for h1 in range(H):
        reader, reader_ov, writer = qk[1, h2], ov[1, h2], ov[0, h1]
        expected = {
          "k": norm(reader @ writer.T) / norm(reader) / norm(writer),
          "q": norm(writer @ reader) / norm(reader) / norm(writer),
          "v": norm(writer @ reader_ov) / norm(reader_ov) / norm(writer),
        }
        for name, value in expected.items():
          self.assertAlmostEqual(
            float(getattr(got, name)[1, h2, 0, h1]), value, places=4
          )
        for full, matrix in (
          (n.w_e @ reader @ writer.T @ n.w_e.T, matching),
          (n.w_e @ writer @ reader_ov @ n.w_u, virtual),
        ):
          values = circuits.eigenvalues(matrix[1, h2, 0, h1])
          for power in 1, 2:
            traced = np.trace(np.linalg.matrix_power(full, power))
            np.testing.assert_allclose(
              np.sum(values**power),
              traced,
              atol=1e-4 * np.sum(np.abs(values) ** power),
            )

  def test_only_earlier_layers_write(self):
    got = circuits.composition(gaussian_weights())
    for ratio in got:
      missing = np.isnan(np.asarray(ratio))
      self.assertTrue(missing[0].all())
      self.assertTrue(missing[1, :, 1].all())
      self.assertFalse(missing[1, :, 0].any())
    for matrices in (
      circuits.k_composed_matrices(gaussian_weights()),
      circuits.virtual_copying_matrices(gaussian_weights()),
    ):
      values = circuits.eigenvalues(matrices)
      self.assertTrue(np.isnan(values[0]).all())
      self.assertFalse(np.isnan(values[1, :, 0]).any())

  def test_null_of_independent_circuits(self):
    ratios = np.stack(
      [
        np.asarray(circuits.composition(gaussian_weights(seed)).k)[1, :, 0]
        for seed in range(60)
      ]
    )
    squares = ratios**2
    # Rotation invariance makes 1 / sqrt(D) exact in root mean square.
    error = squares.std() / np.sqrt(squares.size)
    self.assertLess(abs(squares.mean() - 1 / D), 4 * error)


class EstimateTest(parameterized.TestCase):
  def test_equals_loops_and_the_jackknife(self):
    rng = np.random.default_rng(0)
    values = rng.normal(1, 1, (2, 40, 6)) + rng.normal(0, 1, (2, 40, 1))
    weights = (rng.uniform(size=(40, 6)) < 0.6).astype(float)
    got = circuits.estimate_mean(
      jnp.asarray(values, jnp.float32), jnp.asarray(weights, jnp.float32)
    )
    for i in range(2):
      mean = (values[i] * weights).sum() / weights.sum()
      self.assertAlmostEqual(float(got.mean[i]), mean, places=5)
      # The jackknife over sequences estimates the same standard error.
      left_out = [
        np.average(np.delete(values[i], b, 0), weights=np.delete(weights, b, 0))
        for b in range(40)
      ]
      jackknife = np.sqrt(39 / 40 * np.sum((left_out - np.mean(left_out)) ** 2))
      self.assertBetween(float(got.standard_error[i]) / jackknife, 0.95, 1.05)

  def test_zero_if_no_token_counts(self):
    got = circuits.estimate_mean(jnp.ones((3, 4)), jnp.zeros((3, 4)))
    self.assertEqual([float(x) for x in got], [0, 0])


class IdealTest(parameterized.TestCase):
  def test_ideal_patterns_score_one(self):
    batch = sample_batch(seed=5)
    own = random_pattern(jax.random.key(0), 1, 3, 2, 24)
    induction = circuits.induction_pattern(own[0], batch.tokens)[None]
    scores = circuits.score_heads(induction, batch)
    np.testing.assert_allclose(scores.prefix_matching, 1, rtol=1e-6)
    np.testing.assert_allclose(induction.sum(axis=-1), 1, rtol=1e-5)
    back = jnp.broadcast_to(circuits.previous_token_pattern(24), own.shape)
    scores = circuits.score_heads(back, batch)
    np.testing.assert_allclose(scores.previous_token, 1)
    np.testing.assert_allclose(back.sum(axis=-1), 1)


if __name__ == "__main__":
  absltest.main()
