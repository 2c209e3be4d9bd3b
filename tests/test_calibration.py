"""A small calibration of the detector, and how the calibration counts."""

import contextlib
import io
import json
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from absl.testing import absltest, parameterized

from experiments import calibrate_detector as calibration
from experiments import synthetic_curves
from experiments.calibrate_detector import Cell, Outcome
from experiments.shared import reporting
from induction_jax.transition import Interval, Transition

# The code under test uses only numpy, so one interpreter is enough.
pytestmark = pytest.mark.slow

HIT = Outcome("detected", (True, True, True), False, 1.0)
MISS = Outcome("detected", (False, False, False), False, 1.0)
NULL = Cell("constant", 0.0, 10.0, 0.0)
JUMP = Cell("logistic", 0.8, 5.0, 0.03)


def _measure(cells, replicates, points):
  return {
    cell: calibration.measure_cell(
      cell, numbers=range(replicates), points=points, seed=1
    )
    for cell in cells
  }


class SmallCalibrationTest(absltest.TestCase):
  """A few curves of the most difficult cells; the table has the rates."""

  def test_false_alarms(self):
    cells = [
      Cell(kind, rho, synthetic_curves.DRIFT_HEIGHT, 0.0)
      for kind, rho in (
        ("constant", 0.8),
        ("linear", 0.95),
        ("broken power law", 0.0),
        ("broken power law", 0.5),
      )
    ]
    figures = calibration.summarise(_measure([*cells, JUMP], 8, 200))
    found = [row["found"] * 8 for row in figures["table"][:4]]
    self.assertLessEqual(sum(found), 1)  # of 32 curves, 5 % would be 1.6

  def test_power_and_coverage(self):
    cells = [
      Cell("logistic", 0.5, 5.0, 0.01),
      Cell("logistic", 0.8, 10.0, 0.03),
      Cell("logistic", 0.0, 5.0, 0.3),
    ]
    figures = calibration.summarise(_measure([NULL, *cells], 8, 400))
    self.assertEqual(figures["power_min"], 1.0)
    covered = np.mean([row["coverage"] for row in figures["table"][1:]])
    self.assertBetween(covered, 0.85, 0.99)  # nominally 0.95
    for row in figures["table"][1:]:
      self.assertGreater(row["most_power"], 0.99)


class SlowNoiseTest(absltest.TestCase):
  def test_a_step_of_the_noise_does_not_hide_a_wide_jump(self):
    # A line plus one step of noise, too low to count, has a better BIC.
    cell = Cell("logistic", 0.8, 5.0, 0.3)
    ((steps, curve, truth),) = synthetic_curves.sample(
      cell, range(98, 99), 1000, 12
    )
    found = calibration.detect(steps, curve)
    self.assertEqual(found.status, "detected")
    self.assertTrue(all(calibration.covers(found, truth)))


class CountTest(parameterized.TestCase):
  def test_worst_cells(self):
    quiet, loud = Outcome("none"), Outcome("in_progress")
    figures = calibration.summarise(
      {
        NULL: [quiet] * 95 + [loud] * 5,
        JUMP: [HIT] * 90 + [MISS] * 6 + [quiet] * 3 + [Outcome("ambiguous")],
        JUMP._replace(width=0.01): [HIT._replace(at_floor=True)] * 100,
        # Cells with correlation 0.95 do not enter the bounds.
        JUMP._replace(rho=0.95): [quiet] * 100,
      }
    )
    raw = figures["raw"]
    self.assertAlmostEqual(raw["false_alarm_max"], 0.05)
    self.assertAlmostEqual(raw["power_min"], 0.96)
    self.assertAlmostEqual(raw["coverage_min"], 90 / 96)
    # The intervals of the other cell are as narrow as is allowed.
    self.assertAlmostEqual(raw["coverage_max"], 90 / 96)
    self.assertEqual(figures["table"][1]["ambiguous"], 0.01)
    self.assertIsNone(figures["table"][3]["coverage"])

  def test_a_transition_without_a_completion_does_not_hold_it(self):
    found = Transition(midpoint=Interval(1.0, 2.0, 3.0))
    holds = calibration.covers(found, np.array([1.0, 2.0, 3.0]))
    self.assertEqual(holds, (False, True, False))

  def test_equal_cells_are_drawn_to_one_share(self):
    draws = np.random.default_rng(0).random((200, 24, 5)) < 0.95
    worst = [np.min(calibration.shrunk_means(list(d * 1.0))) for d in draws]
    raw = [np.min(calibration.means(list(d * 1.0))) for d in draws]
    self.assertLess(np.mean(raw), 0.75)
    self.assertBetween(np.mean(worst), 0.88, 0.95)

  def test_a_cell_that_fails_stays(self):
    samples = [np.ones(100)] * 23 + [np.arange(100) < 60]
    worst = np.min(calibration.shrunk_means(samples))
    self.assertBetween(worst, 0.6, 0.68)
    few = [np.ones(5)] * 23 + [np.array([1.0, 0, 0, 1, 0])]
    self.assertLess(np.min(calibration.shrunk_means(few)), 0.75)

  def test_rounds_are_the_same_curves(self):
    everything = list(synthetic_curves.sample(JUMP, range(4), 100, 0))
    later = list(synthetic_curves.sample(JUMP, range(2, 4), 100, 0))
    for one, other in zip(everything[2:], later, strict=True):
      for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)
    self.assertFalse(np.array_equal(everything[0][1], everything[1][1]))


class CommandTest(absltest.TestCase):
  def call(self, *options):
    """Runs the command and returns its standard output and error."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
      calibration.main(options)
    return out.getvalue(), err.getvalue()

  def test_figures(self):
    path = Path(self.enter_context(tempfile.TemporaryDirectory())) / "f.json"
    cells = [NULL, JUMP._replace(height=10.0, width=0.1, rho=0.0)]
    options = "--replicates=6", "--points=100", "--processes=1"
    with mock.patch.object(calibration, "all_cells", return_value=cells):
      out, err = self.call(*options, f"--json={path}")
    self.assertEqual(err.split("\n")[:2], ["5 replicates", "6 replicates"])
    figures = json.loads(path.read_text())
    self.assertEqual(list(figures)[:4], list(calibration.BOUNDS))
    self.assertEqual([row["replicates"] for row in figures["table"]], [6, 6])
    self.assertEqual(list(figures["raw"]), list(calibration.BOUNDS))
    rows = {name: t["rows"] for name, t in figures["tables"].items()}
    self.assertEqual(rows["bounds"][1][1:], [*figures["raw"].values()])
    self.assertEqual(
      rows["bounds"][2][1:], [figures[x] for x in calibration.BOUNDS]
    )
    self.assertEqual(rows["nulls"][0][:2], ["constant", 0.0])
    self.assertEqual(rows["jumps"][0][:3], [0.1, 10.0, 0.0])
    for name, table in figures["tables"].items():
      self.assertIn(reporting.format_table(reporting.Table(**table)), out, name)

  def test_nonsense(self):
    with self.assertRaises(SystemExit):
      self.call("--replicates=0")


if __name__ == "__main__":
  absltest.main()
