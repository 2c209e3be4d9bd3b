"""Events and leads on signals whose answer is known."""

import numpy as np
import pytest
from absl.testing import absltest, parameterized
from scipy.special import expit

from induction_jax.transition.events import date_excursion
from induction_jax.transition.lead_lag import (
  WINDOW,
  alarm_threshold,
  compare,
  departures,
  first_alarm,
  holm,
)

# The code under test uses only numpy, so one interpreter is enough.
pytestmark = pytest.mark.slow

STEPS = np.arange(0.0, 700.0, 10.0)
TENTH = 2 * np.log(9)


def _bump(seed, rise=400.0, fall=470.0, sd=0.05):
  """A flat signal that rises by 2 in 40 steps and falls by 1.5, with noise."""
  up = expit(TENTH * (STEPS - rise) / 40)
  down = expit(TENTH * (STEPS - fall) / 40)
  noise = np.random.default_rng(seed).normal(size=len(STEPS))
  return 2 * up - 1.5 * down + sd * noise


class ExcursionTest(parameterized.TestCase):
  @parameterized.parameters(0, 1, 2)
  def test_onset_and_peak_of_a_bump(self, seed):
    found = date_excursion(STEPS, _bump(seed))
    self.assertIn(found.status, ("detected", "in_progress"))
    # The true onset is 380, and the top lies between rise and fall.
    self.assertBetween(380.0, found.onset.low, found.onset.high)
    self.assertAlmostEqual(found.onset.estimate, 380.0, delta=12.0)
    self.assertBetween(435.0, found.peak.low, found.peak.high)
    self.assertLess(found.peak.high - found.peak.low, 100.0)

  def test_a_later_and_higher_swing_plays_no_part(self):
    later = 2 * expit(TENTH * (STEPS - 640) / 40)
    found = date_excursion(STEPS, _bump(0))
    swung = date_excursion(STEPS, _bump(0) + later)
    np.testing.assert_allclose(swung.onset, found.onset, rtol=1e-5)
    self.assertEqual(swung.peak, found.peak)

  def test_a_rise_without_a_fall_has_no_peak(self):
    signal = 2 * expit(TENTH * (STEPS - 400) / 40)
    found = date_excursion(STEPS, signal)
    self.assertEqual(found.status, "detected")
    self.assertIsNone(found.peak)

  @parameterized.parameters(0, 1, 2)
  def test_noise_and_falls_are_none(self, seed):
    noise = np.random.default_rng(seed).normal(size=len(STEPS))
    self.assertIn(date_excursion(STEPS, noise).status, ("none", "ambiguous"))
    fall = -2 * expit(TENTH * (STEPS - 400) / 40) + 0.02 * noise
    self.assertIn(date_excursion(STEPS, fall).status, ("none", "ambiguous"))

  def test_a_peak_too_early_is_ambiguous(self):
    found = date_excursion(STEPS, _bump(0, rise=80.0, fall=150.0))
    self.assertEqual(found.status, "ambiguous")
    self.assertRegex(found.reason, r"\d+ measurements up to the peak, 20")

  def test_bad_input_is_the_detectors(self):
    with self.assertRaisesRegex(ValueError, "at least 20 points, got 3"):
      date_excursion(STEPS[:3], STEPS[:3])
    with self.assertRaisesRegex(ValueError, "signal must be finite"):
      date_excursion(STEPS, np.full_like(STEPS, np.nan))


class LeadTest(parameterized.TestCase):
  def test_known_leads(self):
    rng = np.random.default_rng(0)
    start = rng.uniform(300, 500, size=40)
    events = {
      "before": start - 30 + rng.normal(size=40) * 10,
      "beside": start + rng.normal(size=40) * 10,
      "after": start + 20 + rng.normal(size=40) * 10,
      "never": [None] * 40,
    }
    leads = compare([None, *start], {k: [0.0, *v] for k, v in events.items()})
    self.assertBetween(30.0, leads["before"].low, leads["before"].high)
    self.assertBetween(0.0, leads["beside"].low, leads["beside"].high)
    self.assertBetween(-20.0, leads["after"].low, leads["after"].high)
    self.assertLess(leads["before"].corrected, 1e-5)
    self.assertGreater(leads["beside"].corrected, 0.05)
    never = leads["never"]
    self.assertEqual((never.n_seeds, never.n_dated), (40, 0))
    self.assertIsNone(never.median)

  def test_a_seed_without_the_event_is_in_no_pair(self):
    lead = compare([100.0] * 5, {"x": [90.0, 80.0, 70.0, None, None]})["x"]
    self.assertEqual((lead.n_seeds, lead.n_dated), (5, 3))
    self.assertEqual((lead.median, lead.low, lead.high), (20.0, 10.0, 30.0))

  def test_holm(self):
    # By hand: 0.01 * 4, 0.02 * 3, max(0.06, 0.03 * 2), 0.5.
    np.testing.assert_allclose(
      holm(np.array([0.02, 0.5, 0.01, 0.03])), [0.06, 0.5, 0.04, 0.06]
    )

  @parameterized.parameters(
    ([1.0, 2.0], [1.0], "one time for each of the 2 seeds, got 1"),
    ([None, 2.0], [1.0, 2.0], "at least 2 seeds need a transition, got 1"),
  )
  def test_bad_input(self, transition, times, message):
    with self.assertRaisesRegex(ValueError, message):
      compare(transition, {"x": times})


class AlarmTest(parameterized.TestCase):
  def test_departures_are_studentised_prediction_errors(self):
    signal = np.random.default_rng(0).normal(size=40)
    far = departures(signal)
    np.testing.assert_array_equal(far[:WINDOW], 0)
    for i in (WINDOW, 39):
      design = np.column_stack([np.ones(WINDOW), np.arange(WINDOW)])
      before = signal[i - WINDOW : i]
      fit, rss, _, _ = np.linalg.lstsq(design, before, rcond=None)
      new = np.array([1.0, WINDOW])
      variance = rss[0] / (WINDOW - 2)
      variance *= 1 + new @ np.linalg.inv(design.T @ design) @ new
      expected = (signal[i] - new @ fit) / np.sqrt(variance)
      np.testing.assert_allclose(far[i], expected)

  def test_departures_see_nothing_later(self):
    signal = _bump(0)
    cut = departures(signal[:45])
    np.testing.assert_array_equal(departures(signal)[:45], cut)

  def test_alarms_at_equal_false_alarm_rates(self):
    rng = np.random.default_rng(0)
    controls = list(rng.normal(size=(40, len(STEPS))))
    threshold = alarm_threshold(controls, 0.05)
    alarms = [first_alarm(STEPS, x, threshold) for x in controls]
    self.assertEqual(sum(alarm is not None for alarm in alarms), 1)
    step = first_alarm(STEPS, 20 * _bump(0), threshold)
    self.assertBetween(step, 360.0, 410.0)


if __name__ == "__main__":
  absltest.main()
