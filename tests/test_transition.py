"""The transition detector on series whose answer is known."""

from unittest import mock

import numpy as np
import pytest
from absl.testing import absltest, parameterized
from scipy.special import expit

from induction_jax.transition import (
  classification,
  curves,
  detect,
  evidence,
  intervals,
)

# The code under test uses only numpy, so one interpreter is enough.
pytestmark = pytest.mark.slow

STEPS = np.arange(10.0, 2001.0, 10.0)  # 200 measurements
TENTH = 2 * np.log(9)  # expit(x) runs from 10 to 90 % over this


def _logistic(midpoint, width, steps=STEPS):
  return expit(TENTH * (steps - midpoint) / width)


def _noise(seed, sd, rho=0.0, size=200):
  """Stationary AR(1) noise, by its recursion."""
  fresh = np.random.default_rng(seed).normal(size=size) * sd
  values = fresh.copy()
  for i in range(1, size):
    values[i] = rho * values[i - 1] + np.sqrt(1 - rho**2) * fresh[i]
  return values


def _accuracy(seed):
  """Accuracy as on `repeats`: drift, jump at 425, asymptote, uneven noise."""
  before = 0.10 + 0.12 * np.minimum(STEPS / 400, 1)
  after = 1.0 - 0.05 * np.exp(-np.maximum(STEPS - 480, 0) / 250)
  jump = _logistic(425, 75)
  sd = np.where(STEPS < 480, 0.006, 0.001)
  return before * (1 - jump) + after * jump + sd * _noise(seed, 1.0)


def _loss(seed):
  """Loss as on `repeats`: fast fall, drift, jump at 430, long tail."""
  before = (
    3.9 - 0.4 * (1 - np.exp(-STEPS / 60)) - 0.3 * np.minimum(STEPS / 400, 1)
  )
  after = 0.2 + 0.6 * np.exp(-np.maximum(STEPS - 430, 0) / 200)
  jump = _logistic(430, 100)
  sd = np.where(STEPS < 480, 0.02, 0.004)
  return before * (1 - jump) + after * jump + sd * _noise(seed, 1.0)


def _points(found):
  return np.array([found.onset, found.midpoint, found.completion])  # [3, 3]


DRIFTS = {
  "constant": np.zeros_like(STEPS),
  "linear": 0.15 * STEPS / 2000,
  "power": 0.15 * np.sqrt(STEPS / 2000),
  "saturating": 0.15 * (1 - np.exp(-STEPS / 1500)),
}


class JumpTest(parameterized.TestCase):
  @parameterized.parameters(
    (0, 0.0, 20.0, 1),
    (1, 0.0, 90.0, -1),
    (2, 0.7, 20.0, -1),
    (3, 0.7, 90.0, 1),
  )
  def test_a_logistic_is_recovered(self, seed, rho, width, sign):
    midpoint = 700.0 + 5 * seed
    signal = 0.2 + sign * (
      0.03 * STEPS / 2000
      + 0.8 * _logistic(midpoint, width)
      + _noise(seed, 0.01, rho)
    )
    found = detect(STEPS, signal, min_amplitude=0.2)
    self.assertEqual(found.status, "detected")
    self.assertAlmostEqual(found.amplitude, sign * 0.8, delta=0.05)
    low, estimate, high = _points(found).T
    truth = midpoint + width * np.array([-0.5, 0.0, 0.5])
    np.testing.assert_array_less(low - 1e-9, truth)
    np.testing.assert_array_less(truth, high + 1e-9)
    np.testing.assert_allclose(estimate, truth, atol=10.0)

  def test_intervals_hold_the_truth_where_noise_exceeds_the_gap(self):
    truth = 1000.0 + 300.0 * np.array([-0.5, 0.0, 0.5])
    curve = 0.1 + 0.8 * _logistic(1000.0, 300.0)
    hits = []
    for seed in range(4):
      found = detect(STEPS, curve + _noise(seed, 0.02, 0.8), min_amplitude=0.2)
      low, _, high = _points(found).T
      hits.append((low <= truth) & (truth <= high))
    self.assertGreaterEqual(np.sum(hits), 10)  # of 12, nominally 11.4

  @parameterized.parameters(0, 1)
  def test_accuracy_with_drift_tail_and_uneven_noise(self, seed):
    found = detect(STEPS, _accuracy(seed), min_amplitude=0.2)
    self.assertEqual(found.status, "detected")
    np.testing.assert_allclose(
      _points(found)[:, 1], [387.5, 425.0, 462.5], atol=8.0
    )

  def test_falling_loss_with_drift_and_tail(self):
    found = detect(STEPS, _loss(0), min_amplitude=1.0)
    self.assertEqual(found.status, "detected")
    self.assertLess(found.amplitude, -2.0)
    np.testing.assert_allclose(
      _points(found)[:, 1], [380.0, 430.0, 480.0], atol=20.0
    )

  def test_uneven_steps(self):
    steps = np.unique(np.round(np.geomspace(10, 4000, 150)))
    noise = _noise(0, 0.01, size=len(steps))
    signal = 0.1 + 0.8 * _logistic(700.0, 120.0, steps) + noise
    found = detect(steps, signal, min_amplitude=0.2)
    self.assertEqual(found.status, "detected")
    self.assertBetween(700.0, found.midpoint.low, found.midpoint.high)

  @parameterized.parameters(0.0, 0.003)
  def test_a_jump_between_two_measurements_is_known_to_the_gap(self, sd):
    signal = 0.1 + 0.8 * (STEPS > 405) + _noise(0, sd)
    found = detect(STEPS, signal, min_amplitude=0.2)
    self.assertEqual(found.status, "detected")
    ends = _points(found)[:, [0, 2]]
    np.testing.assert_allclose(ends, [[400.0, 410.0]] * 3, atol=0.5)

  @parameterized.parameters(15.0, 40.0, 100.0)
  def test_intervals_cover_the_measurements_around(self, width):
    signal = 0.1 + 0.8 * _logistic(703.0, width) + _noise(0, 1e-4)
    for low, estimate, high in _points(
      detect(STEPS, signal, min_amplitude=0.2)
    ):
      self.assertGreaterEqual(high - low, 10.0)
      self.assertTrue(low <= estimate <= high)
      before = 10.0 * np.floor(estimate / 10.0)
      self.assertLessEqual(low, before)
      self.assertGreaterEqual(high, before + 10.0)

  def test_scale_and_shift_change_only_the_units(self):
    signal = _accuracy(0)
    one = detect(STEPS, signal, min_amplitude=0.2)
    other = detect(STEPS, -300.0 * signal + 70.0, min_amplitude=60.0)
    self.assertEqual(one.status, other.status)
    np.testing.assert_allclose(_points(one), _points(other), atol=0.1)
    np.testing.assert_allclose(other.amplitude, -300 * one.amplitude, rtol=1e-3)
    np.testing.assert_allclose(other.noise_sd, 300 * one.noise_sd, rtol=1e-2)
    self.assertEqual(other.p_value, one.p_value)


class NoJumpTest(parameterized.TestCase):
  @parameterized.product(drift=tuple(DRIFTS), rho=(0.0, 0.8))
  def test_drift_is_none(self, drift, rho):
    # 3 seeds of 8 cases. The calibration measures the rate itself.
    answers = [
      detect(STEPS, 0.1 + DRIFTS[drift] + _noise(seed, 0.01, rho)).status
      for seed in range(3)
    ]
    self.assertEqual(answers, ["none"] * 3)

  def test_the_p_value_of_white_noise_is_large(self):
    found = detect(STEPS, _noise(0, 1.0))
    self.assertEqual(found.reason, "no jump is needed")
    self.assertGreater(found.p_value, 0.05)

  @parameterized.parameters(0, 1)
  def test_a_slow_ramp_is_none(self, seed):
    signal = 0.1 + 0.8 * _logistic(1000.0, 1600.0) + _noise(seed, 0.01)
    found = detect(STEPS, signal, min_amplitude=0.2)
    self.assertIn(
      found.reason, ("wider than 35% of the run", "no jump is needed")
    )
    self.assertEqual(found.status, "none")
    self.assertIsNone(found.midpoint)

  @parameterized.parameters(
    ("MIN_SIGNAL_TO_NOISE", 300.0, "amplitude within the noise"),
    ("MIN_SHARE", 0.99, "amplitude below 99% of the signal's range"),
    ("MAX_WIDTH", 0.03, "wider than 3% of the run"),
    ("MAX_RATIO", 1.1, "completion later than 1.1 times the onset"),
  )
  def test_each_criterion_is_the_reason(self, name, value, reason):
    with mock.patch.object(classification, name, value):
      found = detect(*self._clear_jump())
    self.assertEqual((found.status, found.reason), ("none", reason))
    self.assertEmpty(found.jumps)

  def test_min_amplitude_is_the_reason(self):
    found = detect(*self._clear_jump(), min_amplitude=0.9)
    self.assertEqual(found.status, "none")
    self.assertEqual(found.reason, "amplitude below min_amplitude")
    self.assertEmpty(found.jumps)

  def _clear_jump(self):
    signal = 0.1 + 0.8 * _logistic(700.0, 80.0) + _noise(0, 0.005)
    return STEPS[::2], signal[::2]

  def test_a_low_jump_is_none(self):
    signal = 0.1 + 0.1 * _logistic(700.0, 80.0) + _noise(0, 0.005)
    low = detect(STEPS, signal, min_amplitude=0.2)
    self.assertEqual(low.status, "none")
    high = detect(STEPS, signal, min_amplitude=0.05)
    self.assertEqual(high.status, "detected")

  @parameterized.parameters(0.0, 0.3, 1e6)
  def test_a_constant_is_none(self, value):
    found = detect(STEPS, np.full_like(STEPS, value), min_amplitude=0.2)
    self.assertEqual(found.status, "none")

  def test_a_line_without_noise_is_none(self):
    found = detect(STEPS, STEPS, min_amplitude=0.2)
    self.assertEqual(found.status, "none")
    self.assertGreater(found.p_value, 0.05)

  def test_an_outlier_is_none(self):
    signal = 0.1 + 0.8 * (STEPS == 1000) + _noise(0, 0.01)
    self.assertEqual(detect(STEPS, signal, min_amplitude=0.2).status, "none")


class CensoredTest(parameterized.TestCase):
  @parameterized.parameters(0, 1)
  def test_cut_in_the_middle_is_in_progress(self, seed):
    seen = STEPS <= 430
    found = detect(STEPS[seen], _accuracy(seed)[seen], min_amplitude=0.2)
    self.assertEqual(found.status, "in_progress")
    self.assertAlmostEqual(found.onset.estimate, 387.5, delta=10.0)
    self.assertIsNone(found.completion)

  @parameterized.parameters(0, 1)
  def test_begun_in_the_second_half_is_before_start(self, seed):
    seen = STEPS >= 430
    found = detect(STEPS[seen], _accuracy(seed)[seen], min_amplitude=0.1)
    self.assertEqual(found.status, "before_start")
    self.assertIsNone(found.onset)
    self.assertAlmostEqual(found.completion.estimate, 462.5, delta=10.0)

  @parameterized.parameters(
    (540.0, "before_start", (False, True, True)),
    (560.0, "detected", (True, True, True)),
    (1440.0, "detected", (True, True, True)),
    (1460.0, "in_progress", (True, True, False)),
  )
  def test_one_end_of_the_jump_near_an_end_of_the_run(
    self, midpoint, status, seen
  ):
    # Measured from 500 to 1500. One end of the jump lies a step inside the
    # run or a step outside it.
    steps = np.arange(500.0, 1501.0, 10.0)
    signal = 0.8 * _logistic(midpoint, 100.0, steps)
    signal += _noise(0, 0.005, size=len(steps))
    found = detect(steps, signal)
    self.assertEqual(found.status, status)
    points = found.onset, found.midpoint, found.completion
    self.assertEqual(tuple(point is not None for point in points), seen)
    for point, part in zip(points, (-50.0, 0.0, 50.0)):
      if point is not None:
        self.assertBetween(midpoint + part, point.low, point.high)

  @parameterized.parameters(slice(1), slice(-1, None))
  def test_one_wild_measurement_at_an_end_is_ambiguous(self, where):
    signal = 0.1 + _noise(0, 0.003)
    signal[where] += 0.8
    found = detect(STEPS, signal, min_amplitude=0.2)
    self.assertEqual(found.status, "ambiguous")
    self.assertIsNone(found.midpoint)

  def test_a_p_value_above_the_significance_is_ambiguous(self):
    signal = 0.1 + 0.2 * _logistic(700.0, 80.0) + _noise(0, 0.02, 0.5)
    found = detect(STEPS, signal, min_amplitude=0.1)
    self.assertEqual(found.status, "detected")
    self.assertEqual(found.p_value, 1 / 200)  # the smallest possible value
    strict = detect(STEPS, signal, min_amplitude=0.1, significance=0.004)
    self.assertEqual(strict.status, "ambiguous")
    self.assertEqual(strict.reason, "p = 0.005 is above 0.004")

  def test_a_jump_with_an_end_unseen_must_be_twice_as_sure(self):
    signal = 0.1 + 0.2 * _logistic(1980.0, 80.0) + _noise(0, 0.02, 0.5)
    seen = detect(STEPS, signal, min_amplitude=0.1, significance=0.01)
    self.assertEqual((seen.status, seen.p_value), ("in_progress", 1 / 200))
    strict = detect(STEPS, signal, min_amplitude=0.1, significance=0.009)
    self.assertEqual(strict.status, "ambiguous")
    self.assertEqual(strict.reason, "p = 0.005 is above 0.0045")


class SeveralTest(parameterized.TestCase):
  def test_three_jumps_are_three(self):
    times, heights = (400.0, 1000.0, 1600.0), (1.0, -2.0, 1.5)
    signal = _noise(0, 0.05, 0.3) + sum(
      height * _logistic(time, 80.0) for time, height in zip(times, heights)
    )
    found = detect(STEPS, signal)
    self.assertLen(found.jumps, 3)
    for jump, time, height in zip(found.jumps, times, heights):
      self.assertEqual(jump.status, "detected")
      self.assertAlmostEqual(jump.amplitude, height, delta=0.15)
      self.assertBetween(time, jump.midpoint.low, jump.midpoint.high)
    self.assertEqual(found.midpoint, found.jumps[1].midpoint)  # the largest

  @parameterized.parameters(
    dict(times=(600.0, 1400.0), heights=(1.0, 1.0)),
    dict(times=(600.0, 1400.0), heights=(1.0, -1.0)),
    dict(times=(400.0, 1000.0, 1600.0), heights=(1.0, 1.0, 1.0)),
  )
  def test_equal_jumps_that_hide_each_other(self, times, heights):
    # Beside a single jump the others look like slow noise, so that the first
    # test does not reject.
    signal = _noise(0, 0.05) + sum(
      height * _logistic(time, 80.0) for time, height in zip(times, heights)
    )
    found = detect(STEPS, signal)
    self.assertLen(found.jumps, len(times))
    self.assertLessEqual(found.p_value, 0.01)
    for jump, time, height in zip(found.jumps, times, heights):
      self.assertEqual(jump.status, "detected")
      self.assertAlmostEqual(jump.midpoint.estimate, time, delta=20.0)
      self.assertAlmostEqual(jump.amplitude, height, delta=0.15)

  def test_a_tail_is_the_shape_of_its_jump(self):
    found = detect(STEPS, _loss(0))
    self.assertLen(found.jumps, 1)


class TimeAxisTest(parameterized.TestCase):
  def test_a_logistic_in_log_time(self):
    steps = np.unique(np.round(np.geomspace(10, 10_000, 120)))
    in_log = expit(TENTH * (np.log(steps) - np.log(300.0)) / 1.0)
    noise = _noise(0, 0.01, size=len(steps))
    found = detect(steps, in_log + noise, log_time=True)
    self.assertEqual(found.status, "detected")
    truth = 300.0 * np.exp([-0.5, 0.0, 0.5])
    low, estimate, high = _points(found).T
    np.testing.assert_allclose(estimate, truth, rtol=0.1)
    np.testing.assert_array_less(low, truth)
    np.testing.assert_array_less(truth, high)

  def test_steps_of_times_are_the_inverse(self):
    for log_time in (False, True):
      curve = curves.make_curve(STEPS, STEPS, log_time)
      np.testing.assert_allclose(curves.steps_at(curve, curve.time), STEPS)


class PartsTest(parameterized.TestCase):
  """The parts of the detector against plain loops."""

  def setUp(self):
    super().setUp()
    self.steps = np.array([0, 5, 10, 15, 30, 35, 40, 50, 55, 60.0])
    rng = np.random.default_rng(0)
    self.curve = curves.make_curve(self.steps, rng.normal(size=10))
    self.model = curves.CurveModel("power", 2)
    self.theta = np.array([0.4, 0.3, -2.0, 0.7, -0.5, 0.6])
    self.coefficients = rng.normal(size=4)

  def test_whitening_is_that_of_the_dense_covariance(self):
    lags = np.abs(self.steps[:, None] - self.steps) / 5
    factor = np.linalg.cholesky(0.4**lags)
    values = np.random.default_rng(1).normal(size=(10, 3))
    white = curves.whiten(self.curve, 0.4, values)
    np.testing.assert_allclose(white, np.linalg.solve(factor, values))
    fitted = curves.Fit(
      curves.CurveModel("constant", 0), np.array([0.4]), np.zeros(1), 1.0, 0.0
    )
    simulated = curves.simulate(self.curve, fitted, values)
    slower = 0.4 + (1 + 3 * 0.4) / 10
    factor = np.linalg.cholesky(slower**lags)
    larger = np.sqrt((1 - 0.4**2) / (1 - slower**2))
    np.testing.assert_allclose(simulated, larger * factor @ values)

  def test_jacobian_is_that_of_differences(self):
    columns = curves.design(self.curve, self.model, self.theta)
    slopes = curves.jacobian(
      self.curve, self.model, self.theta, self.coefficients, columns
    )
    np.testing.assert_array_equal(slopes[:, :4], columns)
    for i in range(1, 6):
      step = 1e-6 * np.eye(6)[i]
      ahead, behind = (
        curves.design(self.curve, self.model, self.theta + x)
        for x in (step, -step)
      )
      numeric = (ahead - behind) @ self.coefficients / 2e-6
      np.testing.assert_allclose(slopes[:, 3 + i], numeric, atol=1e-7)

  @parameterized.parameters((0, 0.0), (1, 0.0), (0, 2.0), (1, 2.0))
  def test_evidence_is_the_ratio_of_least_squares(self, jumps, least):
    model = curves.CurveModel("power", jumps)
    theta = np.array([0.4, *self.theta[1 : 1 + 2 * jumps], 0.5])
    null = curves.Fit(model, theta, np.ones(2 + jumps), 1.0, 0.0)
    grid = evidence.Grid(np.array([0.3, 0.6, 0.8]), np.log([0.2, 0.1, 1.5]))
    heights = np.random.default_rng(2).normal(size=(10, 4))
    scores = evidence.score(self.curve, null, grid, heights, least)
    columns = [
      evidence.null_columns(self.curve, null, p) for p in evidence.POWERS
    ]
    self.assertEqual(columns[0].shape[1], 2 + 3 * jumps)
    jumping = curves.logistic(
      self.curve, grid.midpoints, np.exp(grid.log_widths)
    )
    for i in range(4):
      best = self._best(heights[:, i], columns)
      with_jump = self._best(
        heights[:, i],
        [np.column_stack([c, j]) for c in columns for j in jumping],
        least,
      )
      np.testing.assert_allclose(scores.null[i], best, rtol=1e-6)
      np.testing.assert_allclose(
        scores.jump[i], max(best, with_jump), rtol=1e-6
      )

  @parameterized.parameters((0, False), (1, True))
  def test_the_first_replicates_decide_as_all_do(self, seed, needed):
    signal = needed * _logistic(1000.0, 300.0) + _noise(seed, 0.3)
    curve = curves.make_curve(STEPS, signal)
    model = curves.CurveModel("constant", 0)
    null = curves.fit(curve, model, np.array([0.5]))
    every, some = (
      evidence.search(curve, null, np.random.default_rng(0), enough=enough)
      for enough in (1.0, 0.01)
    )
    self.assertEqual(every.p_value <= 0.01, needed)
    self.assertEqual(some.p_value <= 0.01, needed)
    np.testing.assert_allclose(some.starts, every.starts)
    # With a jump all replicates are used, without one only the first ones.
    self.assertEqual(some.p_value == every.p_value, needed)

  def _best(self, curve, designs, least=0.0):
    """The highest log likelihood over designs and rho, by least squares.

    Only fits whose last column rises by at least `least` count.
    """
    best = -np.inf
    for rho in evidence.RHOS:
      white = curves.whiten(self.curve, rho, curve)
      for columns in designs:
        rise = columns[-1, -1] - columns[0, -1]
        columns = curves.whiten(self.curve, rho, columns)
        heights, left = np.linalg.lstsq(columns, white, rcond=None)[:2]
        if abs(heights[-1] * rise) < least:
          continue
        variance = np.sum(left) / len(white) + curves.NOISE_FLOOR**2
        log_det = np.sum(np.log(1 - rho ** (2 * self.curve.lags)))
        best = max(best, -(len(white) * np.log(variance) + log_det) / 2)
    return best

  def test_the_bootstrap_spreads_as_refits_of_new_noise_do(self):
    truth = 0.8 * _logistic(1000.0, 300.0)
    midpoints, spreads = [], []
    for seed in range(60):
      curve = curves.make_curve(STEPS, truth + _noise(seed, 0.05, 0.5))
      start = np.array([0.5, 0.5, np.log(0.15)])
      fitted = curves.fit(curve, curves.CurveModel("constant", 1), start)
      midpoints.append(intervals.points(curve, fitted)[0, 1])
      if seed < 10:
        rng = np.random.default_rng(seed)
        with mock.patch.object(intervals, "CONFIDENCE", 0.68):
          bounds = intervals.bootstrap(curve, fitted, rng)
        spreads.append(np.diff(bounds[0, 1]) / 2)
    # Half of a 68 % interval is one standard deviation. The span of two
    # bootstraps is slightly wider.
    self.assertBetween(np.mean(spreads) / np.std(midpoints), 0.85, 1.5)

  @parameterized.parameters(0, 1, 3)
  def test_a_jump_fitted_too_narrow_has_an_interval_with_the_truth(self, seed):
    signal = 0.8 * _logistic(1000.0, 300.0) + _noise(seed, 0.15, 0.8)
    curve = curves.make_curve(STEPS, signal)
    start = np.array([0.8, 0.5, np.log(0.15)])
    best = curves.fit(curve, curves.CurveModel("constant", 1), start)
    # As if a single step of the noise had been fitted as the jump.
    narrow = best._replace(theta=np.array([0.8, 0.52, np.log(0.02)]))
    rng = np.random.default_rng(0)
    true_onset = (1000.0 - 300.0 / 2 - STEPS[0]) / np.ptp(STEPS)
    resampled = intervals.bootstrap(curve, narrow, rng)[0, 0]
    self.assertGreater(resampled[0], true_onset)
    combined = intervals.estimate_intervals(curve, narrow, rng)[0, 0]
    self.assertBetween(true_onset, *combined)
    # The interval is still informative.
    self.assertLess(np.ptp(combined), 0.25)


class BadInputTest(parameterized.TestCase):
  def test_masked_measurements_are_refused(self):
    masked = np.ma.masked_greater(STEPS, 1900.0)
    for curve in ((masked, STEPS), (STEPS, masked)):
      with self.assertRaisesRegex(ValueError, "must not be masked"):
        detect(*curve)
    # A mask without masked entries is accepted.
    empty = np.ma.masked_greater(STEPS, 1e9)
    self.assertEqual(detect(STEPS, empty * 0.0).status, "none")

  @parameterized.named_parameters(
    ("lengths", STEPS, STEPS[1:], "equal length, got"),
    ("empty", [], [], "at least 20 points, got 0"),
    ("table", np.ones((20, 2)), np.ones((20, 2)), "must be vectors"),
    ("short", STEPS[:19], STEPS[:19], "at least 20 points, got 19"),
    ("complex", STEPS, STEPS + 1j, "must be real"),
    ("range", STEPS, np.where(STEPS > 50, 1e308, -1e308), "range must be fin"),
    ("nan", STEPS, np.where(STEPS == 50, np.nan, 1), "got nan at index 4"),
    ("inf", np.where(STEPS == 2000, np.inf, STEPS), STEPS, "steps must be fin"),
    ("repeated", np.where(STEPS == 50, 40, STEPS), STEPS, "got 40 and then 40"),
    ("unsorted", STEPS[::-1], STEPS, "got 2000 and then 1990"),
    ("negative", STEPS - 100, STEPS, "not be negative, got -90"),
  )
  def test_curve(self, steps, signal, message):
    with self.assertRaisesRegex(ValueError, message):
      detect(steps, signal, min_amplitude=0.2)

  @parameterized.parameters(
    ({"min_amplitude": -0.1},),
    ({"min_amplitude": 0.2, "significance": 0.3},),
    ({"min_amplitude": 0.2, "significance": -0.1},),
  )
  def test_thresholds(self, thresholds):
    name = list(thresholds)[-1]
    with self.assertRaisesRegex(ValueError, f"{name} must"):
      detect(STEPS, STEPS, **thresholds)


if __name__ == "__main__":
  absltest.main()
