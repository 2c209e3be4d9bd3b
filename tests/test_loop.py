"""The run: exact continuation, measurements that touch nothing, divergence."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import chex
import jax
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from induction_jax import loop
from induction_jax.config import make_config
from induction_jax.probes import all_variables
from induction_jax.results import write_results
from induction_jax.storage import checkpoints
from induction_jax.storage.run_directory import open_run
from tests.tiny import tiny_config


@pytest.mark.slow
class RunTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.config = make_config(tiny_config().to_dict())
    cls.experiment = loop.make_experiment(cls.config)
    cls.root = Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
    cls.whole = cls.start("whole")
    loop.run(cls.experiment, cls.whole)
    cls.programs = cls.count_programs()
    cls.final = cls.snapshot(cls.whole)

  @classmethod
  def start(cls, name):
    return open_run(cls.root / name, cls.config, resume=True)

  @classmethod
  def snapshot(cls, directory, experiment=None):
    return loop.load_or_init(experiment or cls.experiment, directory)[0]

  def assert_equal_runs(self, directory):
    chex.assert_trees_all_equal(
      jax.tree.map(np.asarray, self.snapshot(directory).state.params),
      jax.tree.map(np.asarray, self.final.state.params),
    )
    chex.assert_trees_all_equal(
      self.snapshot(directory).state.opt_state, self.final.state.opt_state
    )
    self.assertEqual(
      directory.history.read_text(), self.whole.history.read_text()
    )

  @parameterized.parameters(0, 1, 5, 6, 13, 23)
  def test_stopped_and_resumed_equals_never_stopped(self, stop):
    directory = self.start(f"stopped_{stop}")
    seen = []

    def watch(progress):
      seen.append(progress.step)

    reached = loop.run(
      self.experiment,
      directory,
      should_stop=lambda: seen[-1] >= stop,
      watch=watch,
    )
    self.assertEqual(reached, stop)
    self.assertEqual(checkpoints.steps(directory.checkpoints)[-1], stop)
    self.assertEqual(loop.run(self.experiment, directory), 24)
    self.assert_equal_runs(directory)

  def test_killed_between_checkpoints_and_resumed(self):
    directory = self.start("killed")

    class KilledError(Exception):
      pass

    def watch(progress):
      if progress.step == 17:
        raise KilledError

    with self.assertRaises(KilledError):
      loop.run(self.experiment, directory, watch=watch)
    with directory.history.open("a") as file:
      file.write('{"step": 17, "kind": "pro')
    loop.run(self.experiment, directory)
    self.assert_equal_runs(directory)

  def test_finished_run_is_left_as_it_is(self):
    before = self.whole.history.read_text()
    self.assertEqual(loop.run(self.experiment, self.whole), 24)
    self.assertEqual(self.whole.history.read_text(), before)

  def test_measuring_does_not_touch_training(self):
    values = tiny_config(
      circuits__interval=0,
      ablation__interval=0,
      spectra__eigen_interval=0,
      behaviour__interval=24,
    )
    config = make_config(values.to_dict())
    experiment = loop.make_experiment(config)
    directory = open_run(self.root / "unmeasured", config, resume=True)
    loop.run(experiment, directory)
    chex.assert_trees_all_equal(
      self.snapshot(directory, experiment).state.params,
      self.final.state.params,
    )

  def test_everything_is_measured_when_due(self):
    results = write_results(self.experiment, self.whole)
    np.testing.assert_array_equal(results.step, np.arange(25))
    due = results.top_eigenvalues.dropna("step", how="all").step
    np.testing.assert_array_equal(due, [0, 6, 12, 18, 24])
    declared = {
      v.name
      for v in all_variables(self.experiment.probes)
      if not v.name.startswith(("gauss_newton_", "functional_"))
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
    for probe in cls.experiment.probes:
      functions += [probe.measure, probe.constants]
    return [function._cache_size() for function in functions]

  def test_one_compilation_over_a_whole_run(self):
    self.assertEqual(self.programs, [1] * 10)

  def test_checkpoints_are_log_spaced_then_even(self):
    self.assertEqual(
      checkpoints.steps(self.whole.checkpoints), [0, 1, 2, 4, 8, 12, 24]
    )

  def test_divergence_names_the_step_and_the_checkpoint(self):
    values = tiny_config(
      optim__name="sgd",
      optim__learning_rate=1e30,
      circuits__interval=0,
      ablation__interval=0,
      spectra__eigen_interval=0,
    )
    config = make_config(values.to_dict())
    directory = open_run(self.root / "diverged", config, resume=True)
    with self.assertRaisesRegex(
      FloatingPointError, r"at step \d+; the newest checkpoint is at step \d+"
    ):
      loop.run(loop.make_experiment(config), directory)


# Run apart, with the compiler's optimisation that the suite turns off.
BASE_SCRIPT = """
import numpy as np
from configs import base
from induction_jax import loop
from induction_jax.config import make_config

values = base.get_config()
values.train.num_steps = 2
# Too few products to converge, and two sequences of the real length in place
# of 64: on two cores the whole takes minutes.
values.spectra.max_order = 20
values.spectra.batch_size = 2
values.ablation.batch_size = 2
values.behaviour.batch_size = 2
values.spectra.preconditioned_top_k = 0
experiment = loop.make_experiment(make_config(values.to_dict()))
state, metrics = experiment.train_chunk(experiment.init(), np.int32(2))
assert int(state.step) == 2 and int(metrics.first_bad_step) == -1
assert 3.0 < float(metrics.mean.loss) < 6.0, metrics
held_out = experiment.draw(state.key)
for probe in experiment.probes:
  carry = probe.init_carry(state.params)
  values, _ = loop.measure(probe, state, held_out, carry)
  assert set(values) <= {v.name for v in probe.variables}
  if probe.name == "spectra":
    assert values["top_eigenvalues"].shape == (10,)
    assert values["top_eigenvalues"][0] > 0 > values["bottom_eigenvalues"][0]
    assert values["products"] == 24  # and four for the rounding
print("measured", len(experiment.probes), "probes")
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
    self.assertIn("measured 4 probes", done.stdout)


if __name__ == "__main__":
  absltest.main()
