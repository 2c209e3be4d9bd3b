"""Zoom: replays, their comparison with the run, and their results."""

import contextlib
import io
import json
import shutil
import tempfile
import threading
from pathlib import Path
from unittest import mock

import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from induction_jax import train, zoom
from induction_jax.config import make_config
from induction_jax.report import behaviour_figures, style
from induction_jax.report.findings import find
from induction_jax.report.summary import summarise_zoom
from induction_jax.run import replay
from induction_jax.run.experiment import make_experiment
from induction_jax.run.loop import End
from induction_jax.run.results import make_results, write_results
from induction_jax.run.snapshots import load_newest
from induction_jax.run.timing import Timing
from induction_jax.storage import checkpoints, history
from induction_jax.storage.files import write_json
from induction_jax.storage.run_directory import (
  RunDirectory,
  open_run,
  read_json,
)
from induction_jax.transition import Interval, Transition
from tests.entry_point import call, interrupted
from tests.tiny import run_in, tiny_config, with_light_spectra


@pytest.mark.slow
class ZoomTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    values = tiny_config(
      circuits__interval=0, ablation__interval=0, behaviour__interval=6
    )
    cls.config = make_config(values.to_dict())
    experiment = make_experiment(cls.config)
    cls.experiment = with_light_spectra(experiment)
    cls.root = Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
    cls.original = open_run(cls.root / "original", cls.config, resume=True)
    run_in(cls.original, cls.experiment)
    cls.own = write_results(cls.experiment, cls.original)
    # The same run, measured at every step.
    every = tuple(
      each._replace(interval=1) for each in cls.experiment.measurements
    )
    often = open_run(cls.root / "often", cls.config, resume=True)
    run_in(often, cls.experiment._replace(all_measurements=every))
    cls.often = write_results(cls.experiment, often)

  def setUp(self):
    super().setUp()
    root = Path(self.enter_context(tempfile.TemporaryDirectory())) / "run"
    self.run_directory = RunDirectory(root)
    shutil.copytree(self.original.root, root)
    self.enter_context(
      mock.patch.object(zoom, "make_experiment", return_value=self.experiment)
    )
    self.draw = self.enter_context(mock.patch.object(zoom, "draw_figures"))

  def zoom(self, *arguments):
    return call(zoom.main, self.run_directory.root, *arguments)

  def results(self):
    return make_results(self.experiment, self.run_directory)

  def assert_run_untouched(self):
    self.assertEqual(
      self.run_directory.history.read_bytes(),
      self.original.history.read_bytes(),
    )
    self.assertEqual(
      checkpoints.steps(self.run_directory.checkpoints), [0, 1, 2, 4, 8, 12, 24]
    )

  def assert_zoomed(self, steps):
    """Checks results at these steps against a run measured at every step."""
    joined = self.results()
    for name in "pattern_loss", "prefix_matching", "spectral_norm":
      got = joined[name].dropna("step", how="all")
      self.assertEqual(list(got.step), sorted({0, 6, 12, 18, 24, *steps}), name)
      np.testing.assert_array_equal(got, self.often[name].sel(step=got.step))
    # Means since the previous measurement exist in the run only.
    for name in "train_loss", "train_grad_norm":
      got = joined[name].dropna("step")
      np.testing.assert_array_equal(got, self.own[name].dropna("step"))

  def test_a_damaged_start_is_skipped(self):
    damaged = self.run_directory.checkpoints / "4" / "manifest.json"
    damaged.write_text("{}")
    status, out, err = self.zoom("--from=5", "--to=9", "--every=4")
    self.assertEqual(status, 0, err)
    self.assertRegex(err, r"^warning: .*/4 is damaged .*; not used\n$")
    self.assertIn("replaying 2 -> 12: ", out)
    self.assert_zoomed([5, 9])

  def test_measurements_equal_those_of_the_run(self):
    own = {"transition": {"status": "as the run itself found it"}}
    write_json(self.run_directory.summary, own)
    status, out, err = self.zoom("--from=5", "--to=9", "--every=1")
    self.assertEqual((status, err), (0, ""))
    self.assertIn("replaying 4 -> 12: behaviour,spectra at 5 steps", out)
    self.assertIn(
      "replayed 4 -> 12: equal to the checkpoints at 8, 12, bit for bit\n", out
    )
    self.assertIn("transition on repeats: ", out)
    self.assert_zoomed([5, 6, 7, 8, 9])
    self.assert_run_untouched()
    results = self.draw.call_args.args[2]
    stretch = {"from": 5, "to": 9, "every": 1}
    refined = stretch | summarise_zoom(find(results).transition)
    summary = read_json(self.run_directory.summary)
    self.assertEqual(summary, own | {"zoom": refined})

  def test_a_later_report_of_the_run_ignores_the_zoom(self):
    def report():
      cost = Timing(self.run_directory)
      with contextlib.redirect_stdout(io.StringIO()):
        train.report(self.experiment, self.run_directory, cost)
      return read_json(self.run_directory.summary) | {"cost": None}

    own = report()
    self.zoom("--from=5", "--to=9", "--every=1")
    zoomed = read_json(self.run_directory.summary)["zoom"]
    self.assertEqual(report(), own | {"zoom": zoomed})
    # A damaged summary is overwritten.
    self.run_directory.summary.write_text("{")
    self.assertEqual(report(), own)
    self.assert_zoomed([5, 6, 7, 8, 9])

  def test_results_join_those_of_the_run(self):
    self.zoom("--from=5", "--to=9", "--every=1")
    results = self.results()
    self.assertEqual(
      json.loads(results.attrs["zoomed"]),
      [
        {"measurement": x, "from": 5, "to": 9, "every": 1, "count": 4}
        for x in ("behaviour", "spectra")
      ],
    )
    self.assertEqual(
      json.loads(results.attrs["replayed"]),
      [
        {"from": 4, "to": step, "equal": True, "largest_difference": 0.0}
        for step in (8, 12)
      ],
    )
    self.check_figures(results)

  def check_figures(self, results):
    """Checks that figures have panels of the zoom if there is one."""
    with style.paper_style():
      for found, panels in ((results, 8), (self.own, 4)):
        axes = behaviour_figures.plot_transition(found, find(found)).axes
        self.assertLen(axes, panels)
      axes = behaviour_figures.plot_transition(results, find(results)).axes
      for run, closer in zip(axes[::2], axes[1::2]):
        self.assertEqual(closer.get_xlim(), (5, 9))
        self.assertIsNone(closer.get_legend())
        self.assertIsNotNone(run.get_legend())

  def test_repeated_and_overlapping_zooms_measure_nothing_twice(self):
    self.zoom("--from=5", "--to=9", "--every=2", "--measurements=behaviour")
    with self.run_directory.zoomed.open("a") as file:
      file.write('{"step": 9, "kind": "pro')  # cut off by a crash
    self.zoom("--from=5", "--to=9", "--every=2")
    status, _, err = self.zoom("--from=7", "--to=14", "--every=1")
    self.assertEqual((status, err), (0, ""))
    self.assert_zoomed([5, 7, 8, 9, 10, 11, 13, 14])
    self.assertFalse(self.run_directory.summary.exists())  # nor had it any
    measured = [
      (record["measurement"], record["step"])
      for record in history.read(self.run_directory.zoomed)
      if record["kind"] == "measurement"
    ]
    self.assertLen(measured, 16)
    self.assertLen(set(measured), 16)
    self.assert_run_untouched()

  def test_a_stopped_zoom_keeps_its_measurements(self):
    plan = replay.make_plan(self.run_directory, 5, 9, 1)
    seen = []
    found = replay.replay(
      self.experiment,
      self.run_directory,
      plan,
      ["behaviour", "spectra"],
      should_stop=lambda: bool(seen) and seen[-1] >= 7,
      watch=lambda progress: seen.append(progress.step),
    )
    self.assertEqual(found, ((7, False), []))
    self.assert_zoomed([5, 7])
    self.assertEqual(self.zoom("--from=5", "--to=9", "--every=1")[0], 0)
    self.assert_zoomed([5, 7, 8, 9])
    self.assert_run_untouched()

  def test_abandoned_in_the_last_measurement_is_not_complete(self):
    plan = replay.make_plan(self.run_directory, 23, 24, 1)
    begun, end = threading.Event(), threading.Event()

    def measure(inputs):
      if int(inputs.state.step) == 24:
        begun.set()
        end.wait(60)
      return behaviour.measure(inputs)

    by_name = {each.name: each for each in self.experiment.measurements}
    behaviour = by_name["behaviour"]
    slow = behaviour._replace(measure=measure)
    with mock.patch.object(replay.ReplayStore, "not_yet_measured") as left:
      left.return_value = {24: {"behaviour"}}
      found, compared = replay.replay(
        self.experiment._replace(all_measurements=(slow,)),
        self.run_directory,
        plan,
        ["behaviour"],
        should_stop=begun.is_set,
      )
    end.set()
    self.assertEqual((found, compared), ((23, False), []))

  def test_training_is_abandoned_at_once(self):
    plan = replay.make_plan(self.run_directory, 5, 9, 1)
    begun, end = threading.Event(), threading.Event()

    def train(state, num_steps):
      begun.set()
      end.wait(60)
      return self.experiment.train_chunk(state, num_steps)

    found, _ = replay.replay(
      self.experiment._replace(train_chunk=train),
      self.run_directory,
      plan,
      [],
      should_stop=begun.is_set,
    )
    end.set()
    self.assertEqual(found, (plan.start, False))

  def test_ends_at_a_step_without_measurement_or_checkpoint(self):
    shutil.rmtree(self.run_directory.checkpoints / "24")
    status, _, err = self.zoom("--from=20", "--to=23", "--every=2")
    self.assertEqual((status, err), (0, ""))
    self.assert_zoomed([20, 22])

  def test_non_finite_training_is_an_error(self):
    train_chunk = self.experiment.train_chunk

    def train(*arguments):
      state, seen = train_chunk(*arguments)
      return state, seen._replace(first_bad_step=jnp.int32(6))

    broken = self.experiment._replace(train_chunk=train)
    with mock.patch.object(zoom, "make_experiment", return_value=broken):
      status, _, err = self.zoom("--from=5", "--to=9", "--every=1")
    self.assertEqual(status, 1)
    self.assertIn("non-finite loss, gradient or parameters at step 6", err)

  def test_an_incomplete_zoom_is_not_dated(self):
    ended = End(12, complete=False), []
    with mock.patch.object(zoom, "replay", return_value=ended):
      status, out, _ = self.zoom("--from=5", "--to=9", "--every=1")
    self.assertEqual(status, 128)  # and the signal, of which there was none
    self.assertIn("stopped at step 12; to go on:", out)
    self.draw.assert_not_called()

  def test_a_signal_does_not_wait_for_figures(self):
    self.draw.side_effect = interrupted
    status, out, _ = self.zoom("--from=5", "--to=6", "--every=1")
    self.assertEqual(status, 143)
    self.assertIn("stopped; to go on:", out)

  def test_a_difference_is_reported(self):
    snapshot = load_newest(self.experiment, self.run_directory)
    kept = self.run_directory.checkpoints
    snapshot = checkpoints.restore(kept, 8, snapshot)
    params = dict(snapshot.state.params)
    params["w_u"] = params["w_u"].at[0, 0].add(np.abs(params["w_u"]).max())
    state = snapshot.state._replace(params=params)
    shutil.rmtree(kept / "8")
    checkpoints.save(kept, 8, snapshot._replace(state=state))
    status, out, err = self.zoom("--from=5", "--to=6")
    self.assertEqual((status, err), (1, ""))
    self.assertRegex(
      out, r"4 -> 8: differs from the checkpoint at 8: .* in params.w_u"
    )
    (record,) = json.loads(self.results().attrs["replayed"])
    self.assertFalse(record["equal"])
    self.assertBetween(record["largest_difference"], 0.4, 1.01)
    # In another environment this is a warning and no failure.
    environment = read_json(self.run_directory.environment)
    environment["packages"]["jax"] = "0.0.1"
    write_json(self.run_directory.environment, environment)
    status, out, err = self.zoom("--from=5", "--to=6")
    self.assertEqual((status, err.count("\n")), (0, 1))
    self.assertIn("warning: jax 0.0.1 then, ", err)
    self.assertIn("differs from the checkpoint at 8", out)

  def test_without_a_later_checkpoint_nothing_is_compared(self):
    for step in ("12", "24"):
      shutil.rmtree(self.run_directory.checkpoints / step)
    status, out, err = self.zoom("--from=9", "--to=10")
    self.assertEqual((status, err), (0, ""))
    self.assertIn("nothing could be compared", out)
    self.assert_zoomed([9, 10])
    _, out, _ = self.zoom("--from=7", "--to=10")
    self.assertIn("equal to the checkpoints at 8, bit for bit; nothing", out)

  def test_stopped_before_the_first_comparison(self):
    plan = replay.make_plan(self.run_directory, 5, 9, 1)
    message = zoom._describe_comparisons(plan, [])
    self.assertIn("stopped before the checkpoint at 8, so nothing", message)

  @parameterized.parameters(
    (10.0, 12.0, (8, 14)), (10.2, 11.9, (8, 14)), (4.0, 22.0, (0, 24))
  )
  def test_default_range_is_the_transition(self, onset, completion, expected):
    points = [Interval(x, x, x) for x in (onset, 11.0, completion)]
    found = find(self.own)._replace(
      transition=Transition("detected", "", *points)
    )
    with (
      mock.patch.object(zoom, "find", return_value=found),
      mock.patch.object(zoom, "zoom", return_value=0) as called,
    ):
      self.assertEqual(self.zoom()[0], 0)
      plan = called.call_args.args[2]
      self.assertEqual((plan.first, plan.last, plan.every), (*expected, 1))
    lines = zoom._describe_transition(summarise_zoom(found.transition))
    self.assertIn(f"width {completion - onset:.1f} [", lines)

  @parameterized.parameters(
    ((), "has no dated transition"),
    (("--from=3", "--to=25"), "steps 0 to 24, got --from=3, --to=25"),
    (("--from=-1", "--to=5"), "steps 0 to 24, got --from=-1, --to=5"),
    (("--from=7", "--to=6"), "--from must not exceed --to"),
    (("--from=3", "--to=6", "--every=0"), "at least 1, got 0"),
    (("--from=x", "--to=6"), "from"),
    (
      ("--from=3", "--to=6", "--measurements=circuits"),
      "(behaviour, spectra), got",
    ),
    (("--from=3", "--to=6", "--measurements="), "got none"),
    (("--from=3", "--to=6", "again"), "unexpected argument"),
  )
  def test_mistakes(self, arguments, message):
    before = self.run_directory.results.read_bytes()
    status, _, err = self.zoom(*arguments)
    self.assertEqual((status, err.count("\n")), (2, 1), err)
    self.assertIn(message, err)
    self.assertEqual(self.run_directory.results.read_bytes(), before)
    self.assertFalse(self.run_directory.zoomed.exists())
    self.assert_run_untouched()

  def test_no_run_or_no_checkpoint(self):
    shutil.rmtree(self.run_directory.checkpoints / "0")
    status, _, err = self.zoom("--from=0", "--to=5")
    self.assertEqual((status, err.count("\n")), (2, 1))
    self.assertIn("no checkpoint at or before step 0", err)
    shutil.rmtree(self.run_directory.checkpoints)
    status, _, err = self.zoom("--from=3", "--to=5")
    self.assertEqual((status, err.count("\n")), (2, 1))
    self.assertIn("has no checkpoint", err)
    status, _, err = call(zoom.main, self.root, "--from=3", "--to=5")
    self.assertEqual((status, err.count("\n")), (2, 1))
    self.assertIn("holds no run", err)


if __name__ == "__main__":
  absltest.main()
