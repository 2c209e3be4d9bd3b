"""Survival curves: a published example, coverage, and undefined cases."""

import numpy as np
import pytest
from absl.testing import absltest, parameterized

from induction_jax.transition.survival import Spread, spread, survival

# Weeks in remission of 21 patients given 6-mercaptopurine (Freireich et al.
# 1963), a textbook example. Negative numbers are censored.
REMISSIONS = (
  *(6, 6, 6, -6, 7, -9, 10, -10, -11, 13, 16, -17, -19, -20, 22, 23),
  *(-25, -32, -32, -34, -35),
)
SHARES = {6: 0.857, 7: 0.807, 10: 0.753, 13: 0.690, 16: 0.627, 22: 0.538}

# The code under test uses only numpy, so one interpreter is enough.
pytestmark = pytest.mark.slow


class SurvivalTest(parameterized.TestCase):
  def test_published_example(self):
    times = np.abs(REMISSIONS)
    seen = np.array(REMISSIONS) > 0
    curve = survival(times, seen)
    for time, share in SHARES.items():
      at = np.searchsorted(curve.times, time)
      self.assertAlmostEqual(curve.share[at], share, places=3)
    found = spread(times, seen)
    self.assertEqual((found.runs, found.seen), (21, 9))
    self.assertEqual((found.median, found.median_low), (23, 13))
    self.assertIsNone(found.median_high)
    self.assertIsNone(found.upper_quartile)
    self.assertEqual((found.lower_quartile, found.earliest), (13, 6))
    self.assertEqual(found.latest, 23)

  def test_without_censoring_it_is_what_is_left(self):
    times = np.array([3.0, 1.0, 4.0, 2.0])
    curve = survival(times, np.ones(4, bool))
    np.testing.assert_allclose(curve.share, [0.75, 0.5, 0.25, 0])
    self.assertTrue(np.all(curve.low <= curve.share))
    self.assertTrue(np.all(curve.share <= curve.high))
    found = spread(times, np.ones(4, bool))
    self.assertEqual(
      (found.lower_quartile, found.median, found.upper_quartile), (1, 2, 3)
    )

  def test_the_medians_interval_covers(self):
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(300):
      times = rng.exponential(1 / np.log(2), 24)  # with median 1
      end = rng.uniform(0.5, 4, 24)
      found = spread(np.minimum(times, end), times <= end)
      low = 0 if found.median_low is None else found.median_low
      high = np.inf if found.median_high is None else found.median_high
      covered.append(low <= 1 <= high)
    self.assertBetween(np.mean(covered), 0.91, 0.99)

  def test_censored_runs_make_it_later_not_fewer(self):
    times = np.array([1.0, 2.0, 9.0, 9.0])
    seen = np.array([True, True, False, False])
    self.assertEqual(spread(times, seen).median, 2)
    self.assertEqual(spread(times[:2], seen[:2]).median, 1)

  def test_none_seen(self):
    self.assertEqual(
      spread(np.array([5.0]), np.array([False])), Spread(1, 0, *[None] * 7)
    )
    self.assertEqual(spread([], []), Spread(0, 0, *[None] * 7))
    with self.assertRaisesRegex(ValueError, "one time seen, got"):
      survival(np.array([5.0]), np.array([False]))


if __name__ == "__main__":
  absltest.main()
