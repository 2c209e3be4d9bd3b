"""p-values against sampling, and their false-alarm rate."""

from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized

from induction_jax import circuits
from induction_jax.transition.lead_lag import holm

L, H, D, K = 2, 3, 12, 4


def random_circuits(rng, decay):
  """Dense W_QK and W_OV [L, H, D, D], singular values falling by `decay`."""
  a, b, c, d = rng.normal(size=(4, L, H, D, K))
  scale = decay ** np.arange(K)
  qk = np.einsum("lhdk,k,lhek->lhde", a, scale, b)
  ov = np.einsum("lhdk,k,lhek->lhde", c, scale, d)
  return qk, ov


def singular(matrices):
  return np.linalg.svd(matrices, compute_uv=False)[..., :K]


def compose(qk, ov):
  """Q-, K- and V-composition of readers in layer 1 with writers in layer 0."""
  ratios = [np.full((L, H, L, H), np.nan) for _ in range(3)]
  norm = np.linalg.norm
  for reader in range(H):
    for writer in range(H):
      r, s, w = qk[1, reader], ov[1, reader], ov[0, writer]
      products = ((w @ r, r), (r @ w.T, r), (w @ s, s))
      for ratio, (product, other) in zip(ratios, products):
        value = norm(product) / norm(other) / norm(w)
        ratio[1, reader, 0, writer] = value
  return ratios


def p_values(ratios, qk, ov, overlaps):
  """p-values of Q-, K- and V-composition."""
  return [
    circuits.composition_p_values(x, reader, singular(ov), overlaps)
    for x, reader in zip(ratios, [singular(qk), singular(qk), singular(ov)])
  ]


class CompositionTest(parameterized.TestCase):
  def test_overlaps_are_those_of_random_subspaces(self):
    overlaps = circuits.random_overlaps(3000, D, K)
    error = overlaps.mean(axis=(1, 2)).std() / np.sqrt(len(overlaps))
    self.assertLess(abs(overlaps.mean() - 1 / D), 4 * error)
    # The share of a direction in a random K-dimensional subspace has a Beta
    # distribution.
    shares = overlaps.sum(axis=2)[:, 0]
    variance = (K / 2) * (D - K) / 2 / ((D / 2) ** 2 * (D / 2 + 1))
    self.assertBetween(shares.var() / variance, 0.9, 1.1)

  def test_equal_rotating_dense_circuits(self):
    rng = np.random.default_rng(1)
    qk, ov = random_circuits(rng, decay=0.4)
    ratios = compose(qk, ov)
    n = 2000
    got = p_values(ratios, qk, ov, circuits.random_overlaps(n, D, K))
    reached = [np.zeros((H, H)) for _ in range(3)]
    for _ in range(n):
      rotation = np.linalg.qr(rng.normal(size=(D, D)))[0]
      rotated = compose(qk, np.stack([ov[0] @ rotation, ov[1]]))
      for count, ratio, null in zip(reached, ratios, rotated):
        count += (null >= ratio)[1, :, 0]
    for p, count in zip(got, reached):
      want = (1 + count) / (1 + n)
      error = np.sqrt(2 * want * (1 - want) / n) + 1e-3
      self.assertLess(np.max(np.abs(p[1, :, 0] - want) / error), 4.5)
      self.assertTrue(np.isnan(p[0]).all())

  @parameterized.parameters(1.0, 0.2)
  def test_false_alarm_rate(self, decay):
    rng = np.random.default_rng(2)
    overlaps = circuits.random_overlaps(399, D, K)
    significant = []
    for _ in range(150):
      qk, ov = random_circuits(rng, decay)
      p = p_values(compose(qk, ov), qk, ov, overlaps)
      significant.append([np.mean(x[1, :, 0] <= 0.1) for x in p])
    rates = np.mean(significant, axis=0)
    error = np.std(significant, axis=0) / np.sqrt(len(significant))
    np.testing.assert_array_less(np.abs(rates - 0.1), 4 * error)

  def test_batches_of_samples_and_kinds_change_nothing(self):
    rng = np.random.default_rng(3)
    qk, ov = map(singular, random_circuits(rng, decay=0.4))
    overlaps = circuits.random_overlaps(399, D, K)
    ratios = rng.random((2, L, H, L, H))
    want = [circuits.composition_p_values(x, qk, ov, overlaps) for x in ratios]
    few = 10 * L * H * max(K, L * H)  # ten samples at a time
    with mock.patch("induction_jax.circuits.composition.NULL_SIZE", few):
      got = circuits.composition_p_values(ratios, qk, ov, overlaps)
    np.testing.assert_array_equal(got, want)

  def test_zero_heads_do_not_compose(self):
    zero = np.zeros((L, H, K))
    p = circuits.composition_p_values(
      np.zeros((L, H, L, H)),
      zero,
      zero,
      circuits.random_overlaps(9, D, K),
    )
    np.testing.assert_array_equal(p, 1)


class PValuesTest(absltest.TestCase):
  def test_counts_ties_and_the_value_itself(self):
    got = circuits.p_values(
      np.array([0.5, 3.0, 4.0, np.nan, 0.0]), np.array([3.0, 1.0, 2.0])
    )
    np.testing.assert_allclose(got, [1, 0.5, 0.25, np.nan, 1])

  def test_holm(self):
    p = np.array([[0.01, np.nan], [0.04, 0.03], [0.005, 0.9]])
    # By hand: 5 x 0.005, 4 x 0.01, 3 x 0.03, then never less, at most 1.
    want = [[0.04, np.nan], [0.09, 0.09], [0.025, 0.9]]
    np.testing.assert_allclose(holm(p), want)

  def test_holm_controls_the_family_wise_error(self):
    rng = np.random.default_rng(0)
    rejected = [holm(rng.uniform(size=16)).min() <= 0.1 for _ in range(900)]
    self.assertBetween(np.mean(rejected), 0.06, 0.13)


if __name__ == "__main__":
  absltest.main()
