"""Reports over seeds: censoring, tables and figures."""

import tempfile
from pathlib import Path

import numpy as np
import xarray as xr
from absl.testing import absltest, parameterized

from induction_jax.report import leads, seed_figures
from induction_jax.report.seeds import (
  Outcome,
  format_seeds,
  format_settings,
  point_times,
  summarise_seeds,
)
from induction_jax.storage.dataset import join_seeds
from induction_jax.transition import Interval, Transition

STEPS = np.arange(0, 1001, 10)
MIDPOINTS = {0: 300.0, 1: 340.0, 2: 420.0}


def dated(seed, midpoint):
  points = [
    Interval(midpoint + shift - 5, midpoint + shift, midpoint + shift + 5)
    for shift in (-30, 0, 30)
  ]
  return Outcome(
    seed, "detected", Transition("detected", "", *points), True, 1000
  )


def undated(seed, status, found="none", last_step=1000, **points):
  return Outcome(
    seed, status, Transition(found, "", **points), False, last_step
  )


DATED = [dated(seed, midpoint) for seed, midpoint in MIDPOINTS.items()]


def results_of(midpoint):
  """Results of a run, all of them curves around one midpoint."""
  rise = 1 / (1 + np.exp(-(STEPS - midpoint) / 10))
  rare = np.where(STEPS % 50 == 0, 1 + 9 * rise, np.nan)
  heads = np.zeros((len(STEPS), 2, 2))
  heads[:, 1, 0] = rise
  return xr.Dataset(
    {
      "induction_accuracy": ("step", rise),
      "prefix_matching": (("step", "layer", "head"), heads),
      "prefix_matching_null": 0.05,
      "top_eigenvalues": (("step", "eig"), rare[:, None]),
    },
    {"step": STEPS},
    {"config": "{}", "hessian_products": "", "title": "run"},
  )


class CountingTest(parameterized.TestCase):
  @parameterized.parameters(
    (undated(9, "none", "none"), "midpoint", 1000, False),
    (undated(9, "in_progress", "in_progress"), "completion", 1000, False),
    (undated(9, "diverged", "none", 70), "midpoint", 70, False),
    (undated(9, "diverged", "ambiguous", 70), "midpoint", 70, False),
    (undated(9, "before_start", "before_start"), "onset", 0, True),
    (undated(9, "before_start", "before_start"), "completion", 1000, False),
  )
  def test_one_more_seed(self, outcome, point, time, is_seen):
    times, seen = point_times([*DATED, outcome], point)
    self.assertEqual((times[-1], seen[-1]), (time, is_seen))
    self.assertLen(times, 4)

  def test_ambiguous_seeds_are_left_out(self):
    times, seen = point_times(
      [*DATED, undated(9, "ambiguous", "ambiguous")], "midpoint"
    )
    np.testing.assert_array_equal(times, [300, 340, 420])
    self.assertTrue(seen.all())

  def test_a_date_before_the_divergence_counts(self):
    outcome = dated(9, 200.0)._replace(status="diverged", last_step=500)
    times, seen = point_times([outcome], "midpoint")
    self.assertEqual((times[0], seen[0]), (200, True))


class TableTest(absltest.TestCase):
  def test_tables(self):
    summary = summarise_seeds(
      [
        *DATED,
        undated(3, "none"),
        undated(4, "ambiguous", "ambiguous"),
        undated(5, "diverged", last_step=70),
      ]
    )
    text = format_seeds(summary)
    for line in (
      "| 1 | detected | 310 [305, 315] | 340 [335, 345] | 370 [365, 375] | yes",
      "| 3 | none | - | - | - | no |",
      "| 5 | diverged at 70 | - |",
      # Four seeds are at risk after step 70, half of them until step 340.
      "| midpoint | 3 of 5 | 340 [300, ∞] | 300, 420 | 300 to 420 |",
      "Induction head in 3 of 6 seeds; 1 ambiguous, not in the spread.",
    ):
      self.assertIn(line, text)
    settings = format_settings({"a=1": summary})
    self.assertIn(
      "| a=1 | 3 of 6 | 1 ambiguous, 3 detected, 1 diverged, 1 none | 3 of 5 |",
      settings,
    )

  def test_none_seen(self):
    text = format_seeds(summarise_seeds([undated(0, "none")]))
    self.assertIn("| midpoint | 0 of 1 | - | - | - |", text)


class FiguresTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    each = {seed: results_of(m) for seed, m in MIDPOINTS.items()}
    short = results_of(300.0).isel(step=slice(0, 8))
    self.joined = join_seeds(each | {7: short})

  def test_every_variable_has_a_seed(self):
    self.assertEqual(self.joined.sizes["seed"], 4)
    for name, variable in self.joined.data_vars.items():
      self.assertEqual(variable.dims[0], "seed", name)
    np.testing.assert_array_equal(self.joined.seed, [0, 1, 2, 7])
    np.testing.assert_array_equal(
      self.joined.induction_accuracy.sel(seed=1),
      results_of(340.0).induction_accuracy,
    )
    self.assertTrue(
      np.isnan(self.joined.induction_accuracy.sel(seed=7, step=90))
    )

  def test_aligned_curves_fall_on_one_another(self):
    grid = np.linspace(-100, 100, 21)
    curves = seed_figures.align(self.joined.induction_accuracy, MIDPOINTS, grid)
    expected = 1 / (1 + np.exp(-grid / 10))
    np.testing.assert_allclose(curves, np.tile(expected, (3, 1)), atol=1e-12)
    # Nothing is extrapolated beyond the last measurement at step 70.
    curves = seed_figures.align(self.joined.induction_accuracy, {7: 50.0}, grid)
    np.testing.assert_array_equal(
      np.isfinite(curves[0]), (grid >= -50) & (grid <= 20)
    )

  def test_figures(self):
    root = Path(self.enter_context(tempfile.TemporaryDirectory()))
    outcomes = [*DATED, undated(7, "diverged", last_step=75)]
    paths = seed_figures.write_seed_figures(
      root / "figures", self.joined, outcomes, "svg"
    )
    self.assertEqual([p.stem for p in paths], ["times", "aligned"])
    text = paths[0].read_text()
    for shown in ("diverged, step 75", "onset", "training step"):
      self.assertIn(shown, text)
    self.assertIn("top eigenvalue (nats)", paths[1].read_text())

  def test_nothing_is_drawn_without_a_transition(self):
    root = Path(self.enter_context(tempfile.TemporaryDirectory()))
    outcomes = [undated(seed, "none") for seed in MIDPOINTS]
    drawn = seed_figures.write_seed_figures(root, self.joined, outcomes, "svg")
    self.assertEqual(drawn, [])


class LeadsTest(absltest.TestCase):
  def test_every_seed_stands_beside_the_medians(self):
    rng = np.random.default_rng(0)

    def run(seed, onset, peak):
      rise = 5.0 * np.heaviside(STEPS - peak, 1.0) if peak else 0.0
      signal = leads.Signal(STEPS, rise + 0.1 * rng.normal(size=len(STEPS)))
      dates = {"gradient_norm, onset": None, "gradient_norm, peak": peak}
      return leads.SeedEvents(seed, onset, {"gradient_norm": signal}, dates)

    runs = [run(7, 300.0, 350.0), run(3, 340.0, 400.0), run(5, None, 420.0)]
    quiet = {"untrained": [run(seed, None, None) for seed in range(3)]}
    figures = leads.summarise_leads(runs, quiet)
    lead = figures["events"]["gradient_norm, peak"]
    self.assertEqual((lead["n_dated"], lead["median_lead"]), (2, -55.0))
    seeds = {each["seed"]: each for each in figures["seeds"]}
    self.assertEqual(list(seeds), [7, 3, 5])
    for seed, onset, peak in ((7, 300.0, 350.0), (3, 340.0, 400.0)):
      self.assertEqual(seeds[seed]["onset"], onset)
      self.assertEqual(seeds[seed]["events"], {"gradient_norm, peak": peak})
      self.assertEqual(seeds[seed]["alarms"], {"gradient_norm": peak})
    self.assertIsNone(seeds[5]["onset"])
    self.assertEqual(figures["controls"]["untrained"]["transitions"], 0)


if __name__ == "__main__":
  absltest.main()
