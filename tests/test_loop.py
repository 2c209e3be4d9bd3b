"""The run: exact continuation, measurements that touch nothing, divergence."""

import contextlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from unittest import mock

import chex
import jax
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from induction_jax.config import ConfigError, make_config
from induction_jax.measurements import Inputs, all_variables
from induction_jax.run.experiment import make_experiment
from induction_jax.run.log import DivergedError, RunLog, read_divergence
from induction_jax.run.results import write_results
from induction_jax.run.snapshots import load_newest
from induction_jax.run.store import RunStore
from induction_jax.storage import checkpoints, history
from induction_jax.storage.run_directory import open_run
from tests.tiny import EARLIER, run_in, tiny_config


@pytest.mark.slow
class RunTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.config = make_config(tiny_config().to_dict())
    cls.experiment = make_experiment(cls.config)
    cls.root = Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
    cls.unbroken = cls.start("unbroken")
    run_in(cls.unbroken, cls.experiment)
    cls.programs = cls.count_programs()
    cls.final = cls.snapshot(cls.unbroken)

  @classmethod
  def start(cls, name):
    return open_run(cls.root / name, cls.config, resume=True)

  @classmethod
  def snapshot(cls, directory, experiment=None):
    return load_newest(experiment or cls.experiment, directory)

  def assert_equal_runs(self, directory):
    chex.assert_trees_all_equal(
      jax.tree.map(np.asarray, self.snapshot(directory).state.params),
      jax.tree.map(np.asarray, self.final.state.params),
    )
    chex.assert_trees_all_equal(
      self.snapshot(directory).state.opt_state, self.final.state.opt_state
    )
    self.assertEqual(
      directory.history.read_text(), self.unbroken.history.read_text()
    )

  @parameterized.parameters(0, 1, 5, 6, 13, 23)
  def test_stopped_and_resumed_equals_never_stopped(self, stop):
    directory = self.start(f"stopped_{stop}")
    seen = []

    def watch(progress):
      seen.append(progress.step)

    end = run_in(
      directory,
      self.experiment,
      should_stop=lambda: bool(seen) and seen[-1] >= stop,
      watch=watch,
    )
    self.assertEqual(end, (stop, False))
    self.assertEqual(checkpoints.steps(directory.checkpoints)[-1], stop)
    self.assertEqual(run_in(directory, self.experiment), (24, True))
    self.assert_equal_runs(directory)

  def test_killed_between_checkpoints_and_resumed(self):
    directory = self.start("killed")

    class KilledError(Exception):
      pass

    def watch(progress):
      if progress.step == 17:
        raise KilledError

    with self.assertRaises(KilledError):
      run_in(directory, self.experiment, watch=watch)
    with directory.history.open("a") as file:
      file.write('{"step": 17, "kind": "pro')
    run_in(directory, self.experiment)
    self.assert_equal_runs(directory)

  def test_records_are_on_disk_before_the_checkpoint_after_them(self):
    order, directory = mock.Mock(), self.start("order")
    order.checksum.return_value = {}
    store = RunStore([directory], order)
    store._logs = [order]
    with mock.patch.object(checkpoints, "save", order.save_checkpoint):
      store.save(self.final)
    called = [name for name, *_ in order.mock_calls]
    self.assertEqual(called, ["commit", "checksum", "save_checkpoint", "save"])

  def test_what_is_gone_on_from_is_not_saved_again(self):
    directory = self.start("from_12")
    shutil.copytree(self.unbroken.root, directory.root, dirs_exist_ok=True)
    shutil.rmtree(directory.checkpoints / "24")
    saved = _stamps(directory.checkpoints)
    run_in(directory, self.experiment)
    now = _stamps(directory.checkpoints)
    self.assertEqual({path: now[path] for path in saved}, saved)
    self.assert_equal_runs(directory)

  def test_a_history_that_goes_meanwhile_is_missed(self):
    directory = self.start("headless")

    def watch(progress):
      if progress.step == 6:
        directory.history.unlink(missing_ok=True)

    with self.assertRaisesRegex(OSError, "history.jsonl has gone"):
      run_in(directory, self.experiment, watch=watch)
    self.assertFalse(directory.history.exists())

  @parameterized.parameters(0.0, 0.5, 0.99)
  def test_lost_records_are_made_again(self, kept):
    directory = self.start(f"cut_{kept}")
    shutil.copytree(self.unbroken.root, directory.root, dirs_exist_ok=True)
    lines = directory.history.read_text().splitlines(keepends=True)
    few = lines[: int(kept * len(lines))]
    directory.history.write_text("".join(few))
    err = io.StringIO()
    with contextlib.redirect_stderr(err):
      run_in(directory, self.experiment)
    self.assertIn("24 is not used: records before it are gone", err.getvalue())
    self.assert_equal_runs(directory)

  def test_weights_too_large_for_a_measurement_are_a_divergence(self):
    directory = self.start("large")
    log = RunLog(directory)
    by_name = {each.name: each for each in self.experiment.measurements}
    state = self.final.state
    large = jax.tree.map(lambda x: 1e30 * x, state.params)
    state = state._replace(params=large)
    batches = self.experiment.draw(state.key)
    arrays = by_name["circuits"].measure(Inputs(state, batches, {}, {}))
    with self.assertRaisesRegex(DivergedError, "step 7: .* weights are too la"):
      log.measured(7, by_name["circuits"], jax.device_get(arrays))
    self.assertFalse(directory.history.exists())

  def test_finished_run_is_left_as_it_is(self):
    before = self.unbroken.history.read_text()
    saved = _stamps(self.unbroken.checkpoints)
    self.assertEqual(run_in(self.unbroken, self.experiment), (24, True))
    self.assertEqual(_stamps(self.unbroken.checkpoints), saved)
    self.assertEqual(self.unbroken.history.read_text(), before)

  def test_measuring_does_not_touch_training(self):
    values = tiny_config(
      circuits__interval=0,
      ablation__interval=0,
      spectra__eigen_interval=0,
      behaviour__interval=24,
    )
    config = make_config(values.to_dict())
    experiment = make_experiment(config)
    directory = open_run(self.root / "unmeasured", config, resume=True)
    run_in(directory, experiment)
    chex.assert_trees_all_equal(
      self.snapshot(directory, experiment).state.params,
      self.final.state.params,
    )

  def test_everything_is_measured_when_due(self):
    results = write_results(self.experiment, self.unbroken)
    np.testing.assert_array_equal(results.step, np.arange(25))
    due = results.top_eigenvalues.dropna("step", how="all").step
    np.testing.assert_array_equal(due, [0, 6, 12, 18, 24])
    declared = {
      v.name
      for v in all_variables(self.experiment.measurements)
      if not v.name.startswith(("gauss_newton_", "functional_", *EARLIER))
    }
    self.assertSetEqual(set(results.data_vars), declared)
    self.assertTrue(np.isnan(results.top_overlap[0]))
    self.assertBetween(float(results.top_overlap[6]), 0, 1.0001)
    self.assertTrue(np.isnan(results.preconditioned_top_eigenvalues[0]).all())
    for name in results.data_vars:
      if name.endswith("_null"):
        self.assertIn(name.removesuffix("_null"), results)

  @classmethod
  def count_programs(cls):
    functions = [cls.experiment.train_chunk, cls.experiment.draw]
    functions += cls.experiment.shared.values()
    for each in cls.experiment.measurements:
      functions += [each.measure, each.nulls]
    return [function._cache_size() for function in functions]

  def test_one_compilation_over_a_whole_run(self):
    self.assertEqual(self.programs, [1] * 11)

  def test_checkpoints_are_log_spaced_then_even(self):
    self.assertEqual(
      checkpoints.steps(self.unbroken.checkpoints), [0, 1, 2, 4, 8, 12, 24]
    )

  def test_divergence_keeps_the_last_good_state_and_says_where(self):
    values = tiny_config(
      optim__name="sgd",
      optim__learning_rate=1e15,
      circuits__interval=0,
      ablation__interval=0,
      spectra__eigen_interval=0,
      checkpoint__log_spaced=False,  # none is due where it fails
    )
    config = make_config(values.to_dict())
    experiment = make_experiment(config)
    directory = open_run(self.root / "diverged", config, resume=True)
    for _ in range(2):  # and fails again in the same way
      with self.assertRaisesRegex(
        FloatingPointError,
        r"at step (\d+): try .*; the last good checkpoint is at step \1, from",
      ):
        run_in(directory, experiment)
      note = read_divergence(directory)
      good = checkpoints.steps(directory.checkpoints)[-1]
      self.assertEqual(
        (note["step"], note["last_good_checkpoint"]), (good,) * 2
      )
      state = self.snapshot(directory, experiment).state
      self.assertEqual(int(state.step), good)
      chex.assert_tree_all_finite(state.params)
    self.assertGreater(good, 0)
    self.assertEqual((note["seed"], len(note["config_sha256"])), (0, 64))
    self.assertIn("xla_flags", note["environment"])

  def test_a_full_disk_is_seen_before_anything_is_done(self):
    directory = self.start("full")
    free = mock.Mock(free=10**4)
    with (
      mock.patch.object(shutil, "disk_usage", return_value=free),
      self.assertRaisesRegex(OSError, "checkpoints"),
    ):
      run_in(directory, self.experiment)
    self.assertFalse(directory.history.exists())

  def test_does_not_begin_again_over_a_history(self):
    directory = self.start("damaged")
    history.append(directory.history, 5, "train", {})
    before = directory.history.read_bytes()
    with self.assertRaisesRegex(ConfigError, "no checkpoint that can be trust"):
      run_in(directory, self.experiment)
    self.assertEqual(directory.history.read_bytes(), before)

  @parameterized.parameters(6, 24)
  def test_a_measurement_is_abandoned_at_once(self, stop):
    directory = self.start(f"abandoned_{stop}")
    begun, end = threading.Event(), threading.Event()

    def measure(inputs):
      if int(inputs.state.step) == stop and not end.is_set():
        begun.set()
        end.wait(60)
      return spectra.measure(inputs)

    by_name = {each.name: each for each in self.experiment.all_measurements}
    spectra = by_name["spectra"]
    by_name["spectra"] = spectra._replace(measure=measure)
    slow = self.experiment._replace(all_measurements=tuple(by_name.values()))
    reached = run_in(directory, slow, should_stop=begun.is_set)
    self.assertEqual(reached, (stop - 1, False))
    self.assertEqual(checkpoints.steps(directory.checkpoints)[-1], stop - 1)
    end.set()
    # What was measured at that step already is measured again.
    last = history.read(directory.history)[-1]
    self.assertEqual((last["step"], last["measurement"]), (stop, "ablation"))
    run_in(directory, self.experiment)
    self.assert_equal_runs(directory)

  def test_training_is_abandoned_at_once(self):
    directory = self.start("abandoned_training")
    begun, end = threading.Event(), threading.Event()

    def train_chunk(state, num_steps):
      if int(state.step) == 9 and not end.is_set():
        begun.set()
        end.wait(60)
      return self.experiment.train_chunk(state, num_steps)

    slow = self.experiment._replace(train_chunk=train_chunk)
    reached = run_in(directory, slow, should_stop=begun.is_set)
    end.set()
    self.assertEqual(reached, (9, False))
    self.assertEqual(checkpoints.steps(directory.checkpoints)[-1], 9)
    run_in(directory, self.experiment)
    self.assert_equal_runs(directory)


def _stamps(directory):
  """What changes with every file that is written again."""
  return {
    str(path): (path.stat().st_ino, path.stat().st_mtime_ns)
    for path in directory.rglob("manifest.json")
  }


# Run apart, with the compiler's optimisation that the suite turns off.
BASE_SCRIPT = """
import numpy as np
from configs import base
from induction_jax.run.loop import measure
from induction_jax.run.snapshots import Snapshot
from induction_jax.config import ConfigError, make_config
from induction_jax.run.experiment import make_experiment
from induction_jax.run.log import read_divergence

values = base.get_config()
values.train.num_steps = 2
# Too few products to converge, and two sequences of the real length in place
# of 64: on two cores the whole takes minutes.
values.spectra.max_order = 20
values.spectra.batch_size = 2
values.ablation.batch_size = 2
values.behaviour.batch_size = 2
values.spectra.preconditioned_top_k = 0
experiment = make_experiment(make_config(values.to_dict()))
state, metrics = experiment.train_chunk(experiment.init(), np.int32(2))
assert int(state.step) == 2 and int(metrics.first_bad_step) == -1
assert 3.0 < float(metrics.mean.loss) < 6.0, metrics
batches = experiment.draw(state.key)
by_name = {each.name: each for each in experiment.measurements}

def record(measurement, arrays):
  values = measurement.finish(arrays)
  assert set(values) <= {v.name for v in measurement.variables}
  if measurement.name == "spectra":
    assert values["top_eigenvalues"].shape == (10,)
    assert values["top_eigenvalues"][0] > 0 > values["bottom_eigenvalues"][0]
    assert values["products"] == 24  # and four for the rounding

is_on = lambda each, _: each.name in by_name
measure(experiment, Snapshot(state, {}), batches, is_on, record)
print("measured", len(by_name))
"""


@pytest.mark.slow
class BaseTest(absltest.TestCase):
  def test_base_takes_two_steps_and_one_measurement(self):
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    done = subprocess.run(
      [sys.executable, "-c", BASE_SCRIPT],
      env=environment,
      capture_output=True,
      text=True,
      check=False,
    )
    self.assertEqual(done.returncode, 0, done.stderr)
    self.assertIn("measured 4", done.stdout)


if __name__ == "__main__":
  absltest.main()
