"""Findings on results made by hand: verdict, majority, extremes, events."""

import functools

import numpy as np
import pytest
import xarray as xr
from absl.testing import absltest, parameterized

from induction_jax.report import events, findings
from induction_jax.report.summary import summarise
from induction_jax.report.text import format_heads
from induction_jax.transition import Interval, Transition

# The code under test uses only numpy, so one interpreter is enough.
pytestmark = pytest.mark.slow

STEPS = np.arange(0, 1000, 10)


def jump(low, high, midpoint=400.0, scale=15.0):
  return low + (high - low) / (1 + np.exp(-(STEPS - midpoint) / scale))


def make_results(accuracy, prefix, loss, ablation=2.0, error=0.05):
  """Two layers of two heads, in which L1H0 has the prefix matching `prefix`."""
  n = len(STEPS)
  rng = np.random.default_rng(0)

  def noisy(x):
    return x + 0.004 * rng.normal(size=n)

  heads = np.full((n, 2, 2), 0.05)
  heads[:, 1, 0] = noisy(prefix)
  previous = np.full((n, 2, 2), 0.06)
  previous[:, 0, 1] = 0.8
  cost = np.zeros((n, 2, 2))
  cost[:, 1, 0] = ablation
  top = np.interp(STEPS, [0, 390, 420, 500, 1000], [3, 3, 40, 10, 60])
  per_head = ("step", "layer", "head")
  return xr.Dataset(
    {
      "induction_accuracy": ("step", noisy(accuracy)),
      "induction_loss": ("step", noisy(loss)),
      "prefix_matching": (per_head, heads),
      "prefix_matching_null": ((), 0.05),
      "previous_token": (per_head, previous),
      "previous_token_null": ((), 0.06),
      "ablation_cost": (per_head, cost),
      "ablation_cost_se": (per_head, np.full_like(cost, error)),
      "top_eigenvalues": (("step", "eig"), top[:, None]),
      "bottom_eigenvalues": (("step", "eig"), -top[:, None]),
    },
    coords={"step": STEPS},
  )


def induction_results(**changes):
  settings = {
    "accuracy": jump(0.2, 1.0),
    "prefix": jump(0.05, 0.9),
    "loss": jump(3.0, 0.2),
  }
  return make_results(**(settings | changes))


@functools.cache
def found_in_induction():
  return findings.find(induction_results())


class FindTest(parameterized.TestCase):
  def test_induction(self):
    found = found_in_induction()
    self.assertEqual(found.transition.status, "detected")
    self.assertBetween(found.transition.midpoint.estimate, 390, 410)
    self.assertTrue(found.verdict.has_induction_head)
    self.assertEqual(found.induction_head[:2], (1, 0))
    self.assertEqual(found.previous_token_head[:2], (0, 1))

  def test_a_spectrum_that_was_never_finite_has_no_extremes(self):
    results = induction_results().isel(step=slice(30))
    unknown = xr.full_like(results["top_eigenvalues"], np.nan)
    results["preconditioned_top_eigenvalues"] = unknown
    results["preconditioned_edge"] = unknown[:, 0]
    for tokens in ("train", "pattern", "random"):
      for what in ("loss", "accuracy"):
        results[f"{tokens}_{what}"] = results[f"induction_{what}"]
    found = findings.find(results)
    self.assertEqual(set(found.spectrum), {"top", "bottom"})
    spectrum = summarise(results, found, {})["spectrum"]
    self.assertIsNone(spectrum["preconditioned_top_final"])
    self.assertIsNone(spectrum["preconditioned_edge"])

  @parameterized.parameters(
    ({"accuracy": jump(0.02, 0.1)}, 0),
    ({"prefix": jump(0.05, 0.2)}, 1),
    ({"ablation": 0.05}, 2),
    ({"ablation": 1.0, "error": 0.5}, 2),
    ({"ablation": -3.0}, 2),
  )
  def test_each_condition_of_the_verdict_is_needed(self, changes, reason):
    results = induction_results(**changes)
    head = findings.best_head(results, "prefix_matching")
    verdict = findings.decide_verdict(results, head)
    self.assertFalse(verdict.has_induction_head)
    failed = [" < " in text for text in verdict.reasons]
    self.assertEqual(failed, [i == reason for i in range(3)])

  def test_no_ablation_no_verdict(self):
    results = induction_results().drop_vars(
      ["ablation_cost", "ablation_cost_se"]
    )
    head = findings.best_head(results, "prefix_matching")
    self.assertFalse(findings.decide_verdict(results, head).has_induction_head)

  def test_curvature_does_not_change_the_transition(self):
    flat = induction_results()
    flat["top_eigenvalues"][:] = 1.0
    moved = findings.find(flat).transition
    self.assertEqual(moved, found_in_induction().transition)

  def test_extremes_lie_around_the_transition(self):
    spectrum = found_in_induction().spectrum
    top, bottom = spectrum["top"], spectrum["bottom"]
    self.assertAlmostEqual(top.before, 3.0)
    self.assertEqual((top.peak, top.peak_step), (40.0, 420))
    transition = found_in_induction().transition
    self.assertLessEqual(top.before_step, transition.onset.estimate)
    self.assertGreater(top.after_step, transition.completion.estimate)
    self.assertBetween(top.after, 9, 30)  # not the 60 at the end
    self.assertEqual((bottom.peak, bottom.peak_step), (-40.0, 420))
    self.assertEqual((top.run_peak, top.run_peak_step), (top.final, 990))
    self.assertGreater(top.final, 55)

  def test_extremes_of_a_run_without_transition(self):
    flat = make_results(0.1 + 0 * STEPS, 0.1 + 0 * STEPS, 3.0 + 0 * STEPS)
    found = findings.find(flat)
    self.assertEqual(found.transition.status, "none")
    top, bottom = found.spectrum["top"], found.spectrum["bottom"]
    self.assertEqual(top[:6], (None,) * 6)
    self.assertEqual((top.run_peak_step, top.final), (990, top.run_peak))
    self.assertLess(bottom.run_peak, -50)

  def test_a_loss_that_rises_is_no_transition(self):
    results = induction_results(
      accuracy=0.1 + 0 * STEPS, prefix=0.1 + 0 * STEPS, loss=jump(3.0, 8.0)
    )
    found = findings.find(results)
    self.assertEqual(found.signals["pattern_loss"].status, "none")

  def test_too_few_measurements_are_ambiguous(self):
    found = findings.find(induction_results().isel(step=slice(None, None, 10)))
    self.assertEqual(found.transition.status, "ambiguous")
    self.assertIn("10 measurements", found.transition.reason)


class CombineTest(parameterized.TestCase):
  def make(self, *statuses):
    points = Interval(1, 2, 3)
    return {
      name: Transition(status, onset=points._replace(low=i))
      for i, (name, status) in enumerate(zip("abc", statuses, strict=True))
    }

  @parameterized.parameters(
    (("detected", "detected", "none"), "detected", 0),
    (("none", "detected", "detected"), "detected", 1),
    (("none", "detected", "none"), "none", 0),
    (("in_progress", "none", "in_progress"), "in_progress", 0),
  )
  def test_two_of_three_decide(self, statuses, status, first):
    found = findings.combine(self.make(*statuses))
    self.assertEqual((found.status, found.onset.low), (status, first))

  def test_three_different_statuses_are_ambiguous(self):
    found = findings.combine(self.make("detected", "none", "in_progress"))
    self.assertEqual(found.status, "ambiguous")
    self.assertIsNone(found.onset)
    self.assertIn("b: none", found.reason)


class HeadNameTest(absltest.TestCase):
  def test_the_verdict_names_the_head(self):
    reasons = found_in_induction().verdict.reasons
    self.assertStartsWith(reasons[1], "prefix matching of head L1H0 ")
    self.assertStartsWith(reasons[2], "loss cost of ablating head L1H0 ")

  def test_the_table_of_heads(self):
    results = induction_results().isel(step=-1)
    pairs = np.full((2, 2, 2, 2), np.nan)
    pairs[1, :, 0] = [[0.1, 0.2], [0.4, 0.3]]  # [reader, writer]
    per_pair = ("layer", "head", "writer_layer", "writer_head")
    results = results.assign(
      k_composition=(per_pair, pairs),
      k_composition_null=0.125,
      ablation_cost_null=0.0,
      **{
        f"{tokens}_{what}": results[f"induction_{what.split('_')[0]}"]
        for tokens in ("pattern", "random")
        for what in ("accuracy", "loss", "loss_null")
      },
    )
    rows = {
      line.split()[0]: line
      for line in format_heads(results).splitlines()
      if line
    }
    self.assertIn("0.060  L0H1 0.800  ", rows["previous_token"])
    self.assertIn("L1H1 < L0H0 0.400  L1H1 < L0H1 0.300", rows["k_composition"])


class EventsTest(absltest.TestCase):
  def test_each_signal_is_dated_by_itself(self):
    rng = np.random.default_rng(0)

    def rise(midpoint):
      return jump(0.0, 2.0, midpoint) + 0.05 * rng.normal(size=len(STEPS))

    # The steep fall before step 100 is not an event.
    start = 5 * np.exp(-STEPS / 15)
    results = induction_results().assign(
      top_eigenvalues=(("step", "eig"), np.exp(start + rise(300))[:, None]),
      bottom_eigenvalues=(("step", "eig"), -np.exp(rise(500))[:, None]),
      gradient_norm=("step", np.exp(start - rise(400))),
    )
    dated = events.date_events(results)
    self.assertCountEqual(
      dated,
      [
        "top_eigenvalue",
        "negative_bottom_eigenvalue",
        "gradient_norm",
        "fall_of_loss",
        "loss_slope",
      ],
    )
    width = 15 * 2 * np.log(9)
    for name, midpoint in (
      ("top_eigenvalue", 300),
      ("negative_bottom_eigenvalue", 500),
      ("fall_of_loss", 400),
    ):
      onset = dated[name].onset
      self.assertBetween(midpoint - width / 2, onset.low - 5, onset.high + 5)
    self.assertEqual(dated["gradient_norm"].status, "none")

  def test_scalars_alone_are_no_events(self):
    results = induction_results()
    seldom = results.sel(
      step=slice(0, 250)
    )  # 16 measurements after the warm-up
    self.assertEqual(events.date_events(seldom), {})


if __name__ == "__main__":
  absltest.main()
