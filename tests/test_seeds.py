"""Many seeds at once: each as if it ran alone, whatever befalls the others."""

import contextlib
import dataclasses
import io
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from induction_jax.config import make_config
from induction_jax.devices.mesh import make_seeds_mesh
from induction_jax.devices.processes import key_data
from induction_jax.measurements import Inputs, Measurement
from induction_jax.run import loop
from induction_jax.run.experiment import (
  compile_experiment,
  make_pure_experiment,
)
from induction_jax.run.log import DivergedError
from induction_jax.run.results import write_results
from induction_jax.run.schedule import TrainingSchedule
from induction_jax.run.seeds import (
  bytes_per_seed,
  config_of_seed,
  group_size,
  make_group,
  over_seeds,
)
from induction_jax.run.snapshots import init_snapshot, load_newest
from induction_jax.run.store import RunStore
from induction_jax.run.timing import Timing
from induction_jax.storage import checkpoints, history
from induction_jax.storage.run_directory import (
  RunDirectory,
  open_run,
  read_json,
)
from induction_jax.storage.sweep_directory import SweepPlan
from induction_jax.training.state import init_state
from induction_jax.training.step import ChunkMetrics, StepMetrics
from induction_jax.types import Variable
from tests.tiny import run_in, tiny_config

SEEDS = (3, 4, 5)
CHANGES = {
  "train__num_steps": 12,
  "behaviour__interval": 3,
  "circuits__interval": 0,
  "ablation__interval": 0,
  "spectra__preconditioned_top_k": 0,
  "spectra__track_top_k_eigenvalues": 1,
}


def arrays(tree):
  """Leaves on the host, keys as what they are made of."""
  return jax.tree.map(np.asarray, key_data(tree))


@pytest.mark.slow
class SeedsTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.config = make_config(tiny_config(**CHANGES).to_dict())
    cls.root = Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
    cls.pure = make_pure_experiment(cls.config)
    cls.one = compile_experiment(cls.pure)
    cls.mesh = make_seeds_mesh(cls.config.mesh, 1)
    cls.group = staticmethod(make_group(cls.pure, "map", cls.mesh))
    cls.runs = cls.start("together")
    cls.run_together(cls.group(SEEDS), cls.runs)

  @classmethod
  def start(cls, name):
    """Directories of the seeds."""
    return [
      open_run(
        cls.root / name / f"seed_{seed}",
        config_of_seed(cls.config, seed),
        resume=True,
      )
      for seed in SEEDS
    ]

  @classmethod
  def run_together(cls, experiment, runs, **options):
    group = RunDirectory(runs[0].root.parent)
    return loop.run(
      experiment,
      TrainingSchedule(cls.config, experiment.measurements),
      RunStore(runs, Timing(group), stacked=True),
      **options,
    )

  def final(self, runs):
    """The newest snapshot of each seed."""
    return [arrays(load_newest(self.one, run)) for run in runs]

  def alone(self, seed, name):
    """A run of one seed, by the programs that all single runs share."""
    config = config_of_seed(self.config, seed)

    def init():
      key = jax.random.key(seed)
      return init_state(self.pure.model, self.pure.tx, key)

    experiment = self.one._replace(config=config, init=jax.jit(init))
    run = open_run(self.root / name, config, resume=True)
    return experiment, run

  def test_a_seed_is_its_single_run_to_the_bit(self):
    run = self.runs[1]
    experiment, own = self.alone(SEEDS[1], "alone")
    run_in(own, experiment)
    self.assertEqual(run.history.read_text(), own.history.read_text())
    # And is read as one, checkpoints included.
    self.assertEqual(
      checkpoints.steps(run.checkpoints), checkpoints.steps(own.checkpoints)
    )
    found, expected = self.final([run, own])
    self.assertEqual(found.state.step, 12)
    chex.assert_trees_all_equal(found, expected)
    results = write_results(experiment, run)
    np.testing.assert_array_equal(
      results.induction_accuracy.dropna("step").step, [0, 3, 6, 9, 12]
    )

  def test_what_goes_in_lies_where_it_lay_when_it_came_out(self):
    # Else the next chunk or measurement, or the first of a sweep that goes on,
    # would compile anew.
    experiment = self.group(SEEDS)
    state = experiment.init()
    batches = experiment.draw(state.key)
    carry = init_snapshot(experiment).carries["spectra"]
    like = jax.tree.map(lambda x: (x.committed, x.sharding), (state, carry))
    (spectra,) = (m for m in experiment.measurements if m.name == "spectra")
    used = {"linearisation": experiment.shared["linearisation"](state, batches)}
    measured = spectra.measure(Inputs(state, batches, used, carry))
    carry = {name: measured[name] for name in carry}
    state, _ = experiment.train_chunk(state, jnp.int32(1))
    found = jax.tree.map(lambda x: (x.committed, x.sharding), (state, carry))
    self.assertEqual(jax.tree.leaves(like), jax.tree.leaves(found))

  def test_stopped_and_resumed_equals_never_stopped(self):
    runs = self.start("stopped")
    seen = []
    end = self.run_together(
      self.group(SEEDS),
      runs,
      should_stop=lambda: bool(seen) and seen[-1] >= 6,
      watch=lambda progress: seen.append(progress.step),
    )
    self.assertEqual(end, (6, False))
    with runs[1].history.open("a") as file:
      file.write('{"step": 9, "kind": "train", "values": {}}\n{"step": 1')
    self.run_together(self.group(SEEDS), runs)
    for run, unbroken in zip(runs, self.runs):
      self.assertEqual(run.history.read_text(), unbroken.history.read_text())
    chex.assert_trees_all_equal(self.final(runs), self.final(self.runs))

  def test_resumes_from_the_newest_checkpoint_that_all_seeds_have(self):
    runs = self.start("uneven")
    for run, unbroken in zip(runs, self.runs):
      shutil.copytree(unbroken.root, run.root, dirs_exist_ok=True)
    # As if killed between the checkpoints of two seeds, and one damaged.
    shutil.rmtree(runs[2].checkpoints / "12")
    for path in (runs[0].checkpoints / "8").rglob("*"):
      if path.is_file() and path.name != "manifest.json":
        path.write_bytes(path.read_bytes()[:-1])
    seen = []
    err = io.StringIO()
    with contextlib.redirect_stderr(err):
      self.run_together(
        self.group(SEEDS), runs, watch=lambda progress: seen.append(progress[0])
      )
    self.assertEqual(seen[0], 4)
    self.assertIn("seed_3/checkpoints/8 is damaged", err.getvalue())
    for run, unbroken in zip(runs, self.runs):
      self.assertEqual(run.history.read_text(), unbroken.history.read_text())
    chex.assert_trees_all_equal(self.final(runs), self.final(self.runs))

  def test_another_group_takes_the_same_programs(self):
    programs = self.group(SEEDS).train_chunk._cache_size()
    state = self.group((7, 8, 9)).init()
    self.group((7, 8, 9)).train_chunk(state, np.int32(2))
    self.assertEqual(self.group(SEEDS).train_chunk._cache_size(), programs)
    again = self.group((9, 8, 3)).init().params["w_q"]
    first = self.group(SEEDS).init().params["w_q"]
    np.testing.assert_array_equal(again[2], first[0])
    self.assertFalse(np.array_equal(again[0], again[1]))

  def test_a_seed_that_diverges_is_frozen_and_the_others_go_on(self):
    runs = self.start("diverged")
    experiment = self.group(SEEDS)

    def poisoned():
      state = experiment.init()
      w_e = state.params["w_e"].at[1].multiply(jnp.nan)
      return state._replace(params=state.params | {"w_e": w_e})

    # The spectra of a network that is nan before it is trained are refused.
    behaviour = tuple(
      each for each in experiment.measurements if each.name == "behaviour"
    )
    poisoned = experiment._replace(init=poisoned, all_measurements=behaviour)
    self.run_together(poisoned, runs)
    note = read_json(runs[1].diverged)
    self.assertEqual((note["step"], note["noticed"]), (0, 1))
    self.assertEqual({r["step"] for r in history.read(runs[1].history)}, {0})
    light = self.one._replace(all_measurements=self.one.all_measurements[:1])
    final = [load_newest(light, run).state for run in runs]
    self.assertEqual([int(state.step) for state in final], [12, 0, 12])
    sound = self.final(self.runs)
    for i in (0, 2):
      self.assertFalse(runs[i].diverged.exists())
      chex.assert_trees_all_equal(
        arrays(final[i].params), sound[i].state.params
      )
      expected = history.read(self.runs[i].history)
      self.assertEqual(
        [r for r in history.read(runs[i].history) if r["kind"] == "train"],
        [r for r in expected if r["kind"] == "train"],
      )

  def test_vmap_is_close(self):
    group = make_group(self.pure, "vmap", self.mesh)
    together, alone = group(SEEDS), self.group(SEEDS)
    state, metrics = together.train_chunk(together.init(), jnp.int32(10))
    expected, single = alone.train_chunk(alone.init(), jnp.int32(10))
    chex.assert_trees_all_close(metrics, single, rtol=1e-5)
    chex.assert_trees_all_close(state.params, expected.params, atol=1e-5)

  def test_memory_and_groups(self):
    each = bytes_per_seed(self.pure)
    state = jax.tree.leaves(jax.eval_shape(self.pure.init).params)
    self.assertGreater(each, 6 * sum(x.size * 4 for x in state))
    self.assertEqual(group_size(64, 10, 329, devices=1), 32)
    self.assertEqual(group_size(64, 10, 329, devices=2), 64)
    self.assertEqual(group_size(7, 10, 40, devices=1), 1)
    self.assertEqual(group_size(5, 10, 1, devices=1), 1)
    plan = SweepPlan(seeds=6, first_seed=2, group=3, mapping="map")
    self.assertEqual(plan.groups(), [range(2, 5), range(5, 8)])


def _finish(arrays):
  if arrays["x"] < 0:
    raise FloatingPointError("x < 0")
  return arrays


class SeedsStoreTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    root = Path(self.enter_context(tempfile.TemporaryDirectory()))
    self.runs = [RunDirectory(root / str(seed)) for seed in range(2)]
    for run in self.runs:
      run.root.mkdir()
    group = RunDirectory(root)
    self.store = RunStore(self.runs, Timing(group), stacked=True)
    self.store.begin(-1)
    self.measurement = Measurement(
      name="m",
      interval=1,
      variables=(Variable("x", ("step",), "x"),),
      measure=lambda inputs: {},
      finish=_finish,
    )

  def measure(self, step, *values):
    found = {"x": np.array(values)}
    return self.store.measured(step, self.measurement, found)

  def steps(self, seed):
    return [record["step"] for record in history.read(self.runs[seed].history)]

  def test_what_is_wrong_with_one_seed_stops_that_one(self):
    self.assertEqual(self.measure(0, 1.0, 4.0), {"x": 2.5})
    self.assertEqual(self.measure(3, 1.0, -1.0), {"x": 1.0})
    self.assertEqual(self.measure(6, 1.0, 1.0), {"x": 1.0})
    self.assertEqual((self.steps(0), self.steps(1)), ([0, 3, 6], [0]))
    self.assertIn("x < 0", read_json(self.runs[1].diverged)["reason"])

  def test_note_goes_with_the_history(self):
    self.measure(3, 1.0, -1.0)
    self.store.begin(3)
    self.assertTrue(self.runs[1].diverged.exists())
    self.store.begin(2)
    self.assertFalse(self.runs[1].diverged.exists())
    self.measure(3, 1.0, 1.0)
    self.assertEqual(self.steps(1), [3])

  def test_divergence_in_training_names_the_step(self):
    zeros = np.zeros(2)
    metrics = ChunkMetrics(
      StepMetrics(zeros, zeros), np.array([-1, 7]), 1 + zeros
    )
    self.assertEqual(self.store.trained(10, metrics)["train_loss"], 0)
    note = read_json(self.runs[1].diverged)
    self.assertEqual((note["step"], note["noticed"]), (7, 10))

  def test_the_last_seed_that_diverges_ends_the_run(self):
    with self.assertRaisesRegex(DivergedError, "step 3: x < 0") as caught:
      self.measure(3, -1.0, -1.0)
    self.store.diverged(caught.exception)
    for run in self.runs:
      self.assertEqual(read_json(run.diverged)["step"], 3)
    # A run that is started again tries again, and fails again.
    self.store.begin(3)
    with self.assertRaises(DivergedError):
      self.measure(3, -1.0, -1.0)


# In a process of its own, for the number of devices is fixed at the start.
DEVICES_SCRIPT = """
import jax, jax.numpy as jnp, numpy as np
from induction_jax.config import make_config
from induction_jax.run.experiment import make_pure_experiment
from induction_jax.devices.mesh import make_seeds_mesh
from induction_jax.run.seeds import make_group
from tests.tiny import run_in, tiny_config

jax.config.update("jax_debug_key_reuse", True)
config = make_config(tiny_config().to_dict())
pure = make_pure_experiment(config)
pure = pure._replace(all_measurements=())
states = []
for shared_by in (16, 1):
  mesh = make_seeds_mesh(config.mesh, shared_by)
  group = make_group(pure, "map", mesh)(range(16))
  state, metrics = group.train_chunk(group.init(), jnp.int32(5))
  states.append((state.params, metrics.mean, group.draw(state.key)))
  print(len(state.params["w_q"].sharding.device_set), "devices")
  assert state.params["w_q"].addressable_shards[0].data.shape[0] == (
    16 // mesh.size
  )
jax.tree.map(
  lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6), *states
)
"""


@pytest.mark.slow
class DevicesTest(absltest.TestCase):
  def test_seeds_are_shared_among_devices(self):
    flags = os.environ["XLA_FLAGS"]
    count = "--xla_force_host_platform_device_count=8"
    done = subprocess.run(
      [sys.executable, "-c", DEVICES_SCRIPT],
      env=os.environ | {"XLA_FLAGS": f"{flags} {count}"},
      capture_output=True,
      text=True,
      check=False,
    )
    self.assertEqual(done.returncode, 0, done.stderr)
    self.assertEqual(done.stdout.split(), ["8", "devices", "1", "devices"])

  def test_mapping_of_one_is_that_of_all(self):
    def function(shared, x, y):
      return {"sum": shared + x + y, "rows": x[None]}

    x, y = jnp.arange(3.0), jnp.ones(3)
    config = make_config(tiny_config().to_dict())
    mesh = make_seeds_mesh(config.mesh, 1)
    for mapping in ("map", "vmap"):
      found = over_seeds(function, mapping, mesh)(2.0, x, y)
      np.testing.assert_array_equal(found["sum"], [3, 4, 5])
      np.testing.assert_array_equal(found["rows"], [[0], [1], [2]])

  def test_config_of_a_seed_is_checked(self):
    config = make_config(tiny_config().to_dict())
    self.assertEqual(
      config_of_seed(config, 7), dataclasses.replace(config, seed=7)
    )
    with self.assertRaisesRegex(ValueError, "seed must be in"):
      config_of_seed(config, 2**32)


if __name__ == "__main__":
  absltest.main()
