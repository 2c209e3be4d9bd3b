"""The online trigger: its sums, false alarms, and an adaptive run."""

import tempfile
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from induction_jax import measure, zoom
from induction_jax.config import make_config
from induction_jax.measurements import Inputs
from induction_jax.measurements.alarm import make_alarm
from induction_jax.run.experiment import make_experiment
from induction_jax.run.results import write_results
from induction_jax.run.snapshots import load_newest
from induction_jax.storage.run_directory import open_run
from induction_jax.transition import trigger
from tests.entry_point import call
from tests.tiny import run_in, tiny_config, with_light_spectra

SENSITIVE = 0.5  # a threshold that tiny runs exceed repeatedly


def noise(n, correlation=0.5, seed=0):
  """AR(1) noise of standard deviation 1."""
  rng = np.random.default_rng(seed)
  values = [rng.standard_normal()]
  for _ in range(n - 1):
    fresh = np.sqrt(1 - correlation**2) * rng.standard_normal()
    values.append(correlation * values[-1] + fresh)
  return np.array(values)


def follow(values):
  """The states after each value."""
  states = [trigger.init_trigger()]
  for value in values:
    states.append(trigger.update(states[-1], float(value)))
  return states[1:]


def plain_cusum(values, n):
  """Both sums after each value from the n-th on, from the formulas."""
  x = values[:n]
  mean, sd = x.mean(), x.std(ddof=1)
  rho = sum((x[i] - mean) * (x[i - 1] - mean) for i in range(1, n))
  rho = min(max(rho / sum((x - mean) ** 2), 0), 0.9)
  high, low, sums = 0.0, 0.0, []
  for before, now in zip(values[n - 1 :], values[n:]):
    z = (now - mean - rho * (before - mean)) / (sd * (1 - rho**2) ** 0.5)
    high, low = max(0, high + z - 0.5), max(0, low - z - 0.5)
    sums.append((high, low))
  return np.array(sums)


class TriggerTest(parameterized.TestCase):
  def test_sums_equal_a_plain_loop(self):
    values = 0.2 + 0.02 * noise(60, seed=3)
    states = follow(values)
    self.assertFalse(any(state.alarm for state in states))
    got = [(state.high, state.low) for state in states[trigger.LEARN :]]
    want = plain_cusum(values, trigger.LEARN)
    self.assertGreater(want.max(), 0.5)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)

  def test_run_length_of_a_known_baseline_is_the_published_one(self):
    # Two-sided with k = 0.5 and h = 5: 465 (Montgomery, Introduction to
    # Statistical Quality Control). The simulation has an error of 2 %.
    peaks = trigger.simulate_peaks(4000, correlation=0.0, known=True)
    length = trigger.mean_run_length(peaks, 5.0)
    self.assertAlmostEqual(length, 465, delta=0.06 * 465)

  @parameterized.parameters(
    (0.0, 2400), (trigger.CORRELATION, trigger.ARL), (0.8, 450)
  )
  def test_run_length_is_as_stated(self, correlation, stated):
    peaks = trigger.simulate_peaks(
      2 * trigger.ARL, correlation=correlation, seed=11
    )
    length = trigger.mean_run_length(peaks, trigger.THRESHOLD)
    self.assertAlmostEqual(length, stated, delta=0.12 * stated)

  def test_threshold_is_the_one_found(self):
    found = trigger.find_threshold()
    self.assertAlmostEqual(found, trigger.THRESHOLD, delta=0.4)

  def test_the_state_machine_has_the_simulated_run_length(self):
    # `update` is slower than the simulation, so the run length is 100.
    quiet = sum(
      not any(s.alarm for s in follow(0.2 + 0.02 * noise(120, seed=seed)))
      for seed in range(100)
    )
    peaks = trigger.simulate_peaks(100, seed=5)
    expected = np.mean(peaks[-1] <= trigger.THRESHOLD)
    error = 100 * (expected * (1 - expected) / 100) ** 0.5
    self.assertAlmostEqual(quiet, 100 * expected, delta=4 * error)

  @parameterized.parameters(1, -1)
  def test_a_shift_is_an_alarm_until_it_is_flat_again(self, sign):
    values = 0.5 + 0.01 * noise(90, seed=2)
    values[30:] += sign * 0.08
    values[35:] += sign * 0.3
    alarms = np.array([int(state.alarm) for state in follow(values)])
    first = int(np.flatnonzero(alarms)[0])
    self.assertBetween(first, 30, 33)
    # The baseline begins at the last value outside the band.
    np.testing.assert_array_equal(alarms[first : 35 + trigger.LEARN - 1], 1)
    np.testing.assert_array_equal(alarms[35 + trigger.LEARN - 1 :], 0)

  def test_leaving_the_band_before_a_baseline_is_an_alarm(self):
    values = [0.1] * 5 + [0.3]
    alarms = [int(state.alarm) for state in follow(values)]
    self.assertEqual(alarms, [0] * 5 + [1])

  def test_constant_and_creeping_signals_are_no_alarm(self):
    for values in (np.full(80, 0.06), np.linspace(0.0630, 0.0615, 80)):
      self.assertFalse(any(state.alarm for state in follow(values)))

  def test_state_is_what_a_checkpoint_can_hold(self):
    for state in follow(noise(30))[:: trigger.LEARN]:
      types = [np.asarray(x).dtype for x in state]
      self.assertEqual(types, ["int32"] * 2 + ["float32"] * 4)

  @parameterized.parameters(np.nan, np.inf)
  def test_not_finite(self, value):
    with self.assertRaisesRegex(ValueError, f"finite, got {value}"):
      trigger.update(trigger.init_trigger(), value)


class AlarmTest(absltest.TestCase):
  """The measurement that calls the trigger from a compiled program."""

  def test_equals_the_trigger_called_by_hand(self):
    # A baseline, a change, another baseline, and a smaller change.
    values = np.float32(0.3 + 0.004 * noise(100, seed=4))
    values[40:] += 0.4
    values[85:] += 0.04
    config = make_config(tiny_config(spectra__adaptive=2).to_dict())
    alarm = make_alarm(config)
    measure = jax.jit(alarm.measure)
    carry, expected = alarm.init_carry(None), trigger.init_trigger()
    seen = []
    for value in values:
      # The best head of each half counts, wherever it is.
      previous_token = value / 4 * np.float32([[1, 0], [0.5, 0]])
      prefix_matching = value / 3 * np.float32([[0, 0.7], [0, 1]])
      behaviour = {
        "previous_token": jnp.asarray(previous_token),
        "prefix_matching_back_to_back": jnp.asarray(prefix_matching),
      }
      found = measure(Inputs(None, None, {"behaviour": behaviour}, carry))
      signal = previous_token.max() + prefix_matching.max()
      expected = trigger.update(expected, float(signal))
      for name, number in expected._asdict().items():
        self.assertEqual(found[name].dtype, np.asarray(number).dtype)
        np.testing.assert_array_equal(found[name], number, name)
      cusum = max(expected.high, expected.low)
      self.assertEqual(float(found["alarm_cusum"]), cusum)
      carry = {name: found[name] for name in carry}
      seen.append(int(found["alarm"]))
    # On at the first change, off when it is flat again, on at the second.
    on, off, again = np.flatnonzero(np.diff(seen)) + 1
    self.assertEqual((on, off), (40, 40 + trigger.LEARN - 1))
    self.assertBetween(again, 85, 89)


class AdaptiveRunTest(parameterized.TestCase):
  """A run with a trigger so sensitive that its alarm goes on and off."""

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    values = tiny_config(
      circuits__interval=0,
      ablation__interval=0,
      spectra__adaptive=2,
      checkpoint__log_spaced=False,
    )
    cls.config = make_config(values.to_dict())
    experiment = make_experiment(cls.config)
    cls.experiment = with_light_spectra(experiment)
    cls.root = Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
    cls.enterClassContext(
      mock.patch.multiple(trigger, LEARN=6, THRESHOLD=SENSITIVE)
    )
    cls.unbroken = open_run(cls.root / "unbroken", cls.config, resume=True)
    run_in(cls.unbroken, cls.experiment)
    cls.results = write_results(cls.experiment, cls.unbroken)

  def test_spectra_are_denser_while_the_alarm_is_on(self):
    on = self.results.alarm.values
    np.testing.assert_array_equal(np.unique(on), [0, 1])
    steps = self.results.step.values
    due = (steps % 6 == 0) | ((steps % 2 == 0) & (on == 1))
    measured = self.results.spectral_norm.notnull()
    np.testing.assert_array_equal(measured, due)
    self.assertGreater(measured.sum(), 5)
    self.assertEqual(self.results.alarm_cusum_null, trigger.THRESHOLD)
    for name in ("alarm", "alarm_cusum", "alarm_cusum_null"):
      self.assertTrue(self.results[name].long_name)

  def test_signal_is_both_halves(self):
    best = self.results[["previous_token", "prefix_matching_back_to_back"]].max(
      ("layer", "head")
    )
    want = best.previous_token + best.prefix_matching_back_to_back
    states = follow(want.values)
    np.testing.assert_array_equal([s.alarm for s in states], self.results.alarm)

  def test_stopped_in_the_alarm_and_resumed_equals_never_stopped(self):
    on = self.results.alarm.values
    # The baseline is half learnt, between two dense measurements.
    stop = next(i for i in range(3, 23) if on[i - 1] and on[i] and i % 2)
    directory = open_run(self.root / "stopped", self.config, resume=True)
    seen = []
    run_in(
      directory,
      self.experiment,
      should_stop=lambda: bool(seen) and seen[-1] >= stop,
      watch=lambda progress: seen.append(progress.step),
    )
    self.assertEqual(seen[-1], stop)
    carries = load_newest(self.experiment, directory).carries
    self.assertEqual(int(carries["alarm"]["alarm"]), 1)
    run_in(directory, self.experiment)
    self.assertEqual(
      directory.history.read_bytes(), self.unbroken.history.read_bytes()
    )

  @parameterized.parameters(measure, zoom)
  def test_one_state_has_no_alarm(self, command):
    flags = "--measurements=alarm", "--from=2", "--to=4"
    flags = flags if command is zoom else flags[:1]
    status, _, err = call(command.main, self.unbroken.root, *flags)
    self.assertEqual((status, err.count("\n")), (2, 1))
    self.assertRegex(err, "must be some of .*behaviour.*, got 'alarm'")
    self.assertNotRegex(err, "alarm.*got")


if __name__ == "__main__":
  absltest.main()
