"""Losses by occurrence and in-context learning, against loops."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from induction_jax import tasks
from induction_jax.model import losses
from induction_jax.types import Batch


def sample(seed=0, batch=4, length=40):
  sampler = jax.jit(
    lambda key: tasks.sample_repeats(
      key, batch, 12, length, pattern=(3, 5), gap=(0, 4)
    )
  )
  return jax.tree.map(np.asarray, sampler(jax.random.key(seed)))


def loop_numbers(tokens, targets, predictable):
  """One sequence."""
  numbers = []
  for t in range(len(tokens)):
    same = [
      s
      for s in range(len(tokens))
      if (tokens[s], targets[s]) == (tokens[t], targets[t])
    ]
    repeated = any(predictable[s] for s in same)
    numbers.append(repeated * (1 + sum(s < t for s in same)))
  return numbers


class OccurrenceTest(parameterized.TestCase):
  def test_numbers_equal_loops(self):
    batch = sample()
    expected = [loop_numbers(*each) for each in zip(*batch, strict=True)]
    got = losses.occurrence_numbers(Batch(*map(jnp.asarray, batch)))
    np.testing.assert_array_equal(got, expected)
    # What can be predicted is there again, and only that.
    np.testing.assert_array_equal(got > 1, batch.predictable)
    self.assertGreater(np.max(expected), 4)
    self.assertIn(1, expected[0])
    self.assertIn(0, expected[0])

  def test_a_pair_is_both_of_its_tokens(self):
    # Unlike in `repeats`, a token here has many successors.
    rng = np.random.default_rng(0)
    text = rng.integers(0, 3, (3, 21))
    batch = Batch(text[:, :-1], text[:, 1:], rng.uniform(size=(3, 20)) < 0.1)
    expected = [loop_numbers(*each) for each in zip(*batch, strict=True)]
    got = losses.occurrence_numbers(Batch(*map(jnp.asarray, batch)))
    np.testing.assert_array_equal(got, expected)

  def test_a_sequence_by_hand(self):
    # The pattern is 1 2 3; the filler 7 8 comes twice and is none.
    text = [7, 8, 1, 2, 3, 7, 8, 1, 2, 3, 1, 2]
    numbers = [0, 0, 1, 1, 0, 0, 0, 2, 2, 0, 3]
    tokens = jnp.asarray([text])
    batch = Batch(tokens[:, :-1], tokens[:, 1:], jnp.asarray([numbers]) > 1)
    np.testing.assert_array_equal(losses.occurrence_numbers(batch)[0], numbers)
    values = jnp.arange(11.0)[None] ** 2
    got = losses.by_occurrence(values, batch, 4)
    expected = [(4 + 9) / 2, (49 + 64) / 2, 100, np.nan]
    np.testing.assert_allclose(got, expected)
    pooled = losses.by_occurrence(values, batch, 2)
    np.testing.assert_allclose(pooled, [6.5, (49 + 64 + 100) / 3])


class InContextScoreTest(parameterized.TestCase):
  @parameterized.parameters((64, (3, 9), (57, 64)), (4, (0, 1), (3, 4)))
  def test_late_minus_early(self, length, early, late):
    values = np.random.default_rng(0).normal(size=(3, length))
    expected = values[:, slice(*late)].mean() - values[:, slice(*early)].mean()
    got = losses.in_context_score(jnp.asarray(values, jnp.float32))
    self.assertAlmostEqual(float(got), expected, places=5)

  def test_olssons_positions_lie_inside(self):
    first, last = (int(x * 512) for x in losses.EARLY)
    self.assertBetween(50, first, last)
    first, last = (int(x * 512) for x in losses.LATE)
    self.assertBetween(500, first, last)


if __name__ == "__main__":
  absltest.main()
