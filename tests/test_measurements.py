"""Measurements: dependencies, settings, null values and registration."""

import tempfile
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from jax.flatten_util import ravel_pytree

from induction_jax import circuits, spectra
from induction_jax.config import make_config
from induction_jax.measurements import (
  MEASUREMENTS,
  Entry,
  Inputs,
  Measurement,
  behaviour,
  curvature,
)
from induction_jax.measurements.eigenpairs import (
  SpectrumRequest,
  find_spectra,
  make_solve,
)
from induction_jax.measurements.participation import make_participation
from induction_jax.run import loop
from induction_jax.run.experiment import (
  Experiment,
  make_experiment,
  make_pure_experiment,
)
from induction_jax.run.results import write_results
from induction_jax.run.snapshots import Snapshot
from induction_jax.storage import history, tensors
from induction_jax.storage.run_directory import open_run
from induction_jax.types import Variable
from tests.tiny import run_in, tiny_config

# Bytes of the tiny network's attention scores for two sequences.
TWO_SEQUENCES = 2 * 4 * 2 * 16**2


def start(name, **settings):
  """A measurement of a tiny experiment, and its inputs at step 0."""
  values = tiny_config(spectra__preconditioned_top_k=0, **settings)
  experiment = make_experiment(make_config(values.to_dict()))
  state = experiment.init()
  batches = experiment.draw(state.key)
  (measurement,) = (m for m in experiment.measurements if m.name == name)
  used = {
    each: jax.eval_shape(experiment.shared[each], state, batches)
    for each in measurement.uses
  }
  carry = measurement.init_carry(state.params)
  return measurement, Inputs(state, batches, used, carry)


class FindSpectraTest(absltest.TestCase):
  def test_each_residual_bound_includes_the_rounding_of_its_own_operator(self):
    config = make_config(tiny_config().to_dict()).spectra
    solve = make_solve(config, config.max_order, spectra.UNSHARDED)
    # In diag(w^3) + w w^T, rounding w changes every product differently.
    params = {"w": jnp.linspace(-3, 5, 30)}

    def operator_at(params):
      w = params["w"]
      return lambda v: {"w": w**3 * v["w"] + jnp.dot(w, v["w"]) * w}

    ones = {"w": jnp.ones(30)}
    halves = {"w": jnp.full(30, 0.5)}
    keys = jax.random.split(jax.random.key(1), 4)
    requests = [
      SpectrumRequest("both_", ones, 3, 3, keys[0]),
      SpectrumRequest("top_", halves, 2, 0, keys[1]),
      SpectrumRequest("bottom_", ones, 0, 2, keys[2]),
    ]

    def alone(request, key):
      plain = solve(operator_at(params), params, request)
      rounding = spectra.rounding_error(
        spectra.extremes(plain),
        lambda params: spectra.rescale(operator_at(params), request.scale),
        params,
        key,
      )
      self.assertGreater(rounding, 0)
      return spectra.add_rounding(plain, rounding, 1e-2)

    with jax.debug_key_reuse(False):  # the same ones again, to compare
      found = find_spectra(
        solve, 1e-2, operator_at(params), operator_at, params, keys[3], requests
      )
      expected = {
        request.prefix: alone(request, key)
        for request, key in zip(requests, jax.random.split(keys[3], 3))
      }
    chex.assert_trees_all_close(found, expected, rtol=1e-4)


class BasisTest(parameterized.TestCase):
  @parameterized.parameters(("none", 4 + 15), ("onto", 12 + 15))
  def test_with_little_memory_the_basis_still_holds_all_wanted_pairs(
    self, project, rows
  ):
    values = tiny_config(
      spectra__track_top_k_eigenvalues=2,
      spectra__max_order=40,
      spectra__memory_gib=1e-9,
      intervention__project=project,
      intervention__project_top_k=12,
    )
    config = make_config(values.to_dict())
    model = make_pure_experiment(config).model
    description = curvature.make_curvature(config, model).description
    self.assertIn(f"basis of {rows} vectors", description)


class SettingsTest(absltest.TestCase):
  def test_all_settings_reach_lanczos(self):
    spectrum, inputs = start(
      "spectra",
      spectra__max_order=30,
      spectra__max_basis=9,
      spectra__tolerance=0.03,
      spectra__track_top_k_eigenvalues=3,
    )
    with mock.patch.object(
      spectra, "lanczos", side_effect=spectra.lanczos
    ) as lanczos:
      jax.eval_shape(spectrum.measure, inputs)
    (call,) = lanczos.call_args_list
    settings = dict(call.kwargs)
    del settings["start"], settings["sharding"]
    self.assertEqual(
      settings,
      {
        "k_top": 3,
        "k_bottom": 3,
        "max_order": 30,
        "max_basis": 9,
        "tolerance": 0.03,
      },
    )


class CacheTest(parameterized.TestCase):
  """Micro-batches on a CPU, if attention scores exceed the cache."""

  def test_behaviour_does_not_depend_on_the_micro_batch(self):
    # Sequences should differ in the number of predictable tokens.
    measurement, inputs = start("behaviour", task__pattern_max=9)
    counts = jnp.sum(inputs.batches.induction.predictable, axis=1)
    self.assertNotEqual(*jnp.sum(counts.reshape(2, 2), axis=1))
    expected = measurement.measure(inputs)
    with mock.patch.object(behaviour, "MEASURING_BYTES", TWO_SEQUENCES):
      measurement, _ = start("behaviour", task__pattern_max=9)
    lowered = measurement.measure.lower(inputs).as_text()
    self.assertIn("2x2x16x16xf32", lowered)
    self.assertNotIn("4x2x16x16xf32", lowered)
    found = measurement.measure(inputs)
    chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-6)

  @parameterized.parameters(
    # asked, clamp, products
    (0, "", "streamed, micro-batch of 2"),
    (0, "mean 0.0", "linear map"),
    (4, "", "linear map"),
  )
  def test_plan_of_products(self, asked, clamp, expected):
    values = tiny_config(
      spectra__micro_batch_size=asked, intervention__clamp=clamp
    )
    with mock.patch.object(curvature, "MEASURING_BYTES", TWO_SEQUENCES):
      experiment = make_experiment(make_config(values.to_dict()))
    self.assertStartsWith(experiment.description, expected)


class CircuitsTest(absltest.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    measurement, inputs = start(
      "circuits", circuits__top_k=2, circuits__rotary_offset=3
    )
    cls.params = inputs.state.params
    cls.nulls = measurement.finish(measurement.nulls(inputs))
    cls.values = measurement.finish(measurement.measure(inputs))
    cls.variables = {each.name: each for each in measurement.variables}

  def test_every_declared_variable_is_measured_and_has_a_null(self):
    found = self.values | self.nulls
    self.assertEqual(set(found), set(self.variables))
    for name, value in found.items():
      dims = self.variables[name].dims
      self.assertEqual(value.ndim, len(dims) - ("step" in dims), name)
      if "writer_head" in dims:
        value = value[1, :, 0]
      self.assertTrue(np.isfinite(value).all(), name)
    without_null = [
      name
      for name in self.values
      if f"{name}_null" not in found
      and not name.endswith(("_real", "_imag", "_singular_values", "_p", "_se"))
    ]
    self.assertEqual(without_null, [])

  def test_scores_at_the_offset(self):
    params = jax.tree.map(np.asarray, self.params)
    weights = circuits.fold_norms(params, "layernorm")
    n = jax.tree.map(lambda x: np.asarray(x, np.float64), weights)
    for offset, name in (0, "qk_matching"), (3, "qk_matching_at_offset"):
      # Rotary positions rotate pairs (i, i + K / 2), here with K = 4.
      angle = offset * np.array([1.0, 0.01])
      query = n.w_q[1, 0][:, :2] + 1j * n.w_q[1, 0][:, 2:]
      query = query * np.exp(1j * angle)
      turned = np.concatenate([query.real, query.imag], axis=1)
      full = n.w_e @ turned @ n.w_k[1, 0].T @ n.w_e.T
      values = np.linalg.eigvals(full)
      score = values.real.sum() / np.abs(values).sum()
      self.assertAlmostEqual(float(self.values[name][1, 0]), score, places=4)

  def test_settings_reach_the_fractions(self):
    self.assertAlmostEqual(float(self.nulls["ov_copied_fraction_null"]), 2 / 11)
    weights = circuits.fold_norms(self.params, "layernorm")
    np.testing.assert_allclose(
      self.values["ov_copied_fraction"], circuits.copied_fraction(weights, 2)
    )

  def test_null_values_come_from_random_circuits(self):
    samples = self.nulls["virtual_copying_null_samples"]
    self.assertEqual(samples.shape, (64 * 4,))
    self.assertAlmostEqual(
      float(self.nulls["virtual_copying_null_sd"]),
      np.sqrt(np.mean(samples**2)),
      places=5,
    )
    # Heads are random at initialisation, so most scores are within two sd.
    for name in ("ov_copying", "qk_matching", "k_composed_matching"):
      scores = self.values[name]
      inside = np.abs(scores) < 2 * self.nulls[f"{name}_null_sd"]
      self.assertGreaterEqual(np.mean(inside[~np.isnan(scores)]), 0.75)


class DependenciesTest(absltest.TestCase):
  """Measurements that use one another, without a network."""

  def setUp(self):
    super().setUp()
    self.made = []
    counter = Measurement(
      name="counter",
      interval=0,
      variables=(Variable("sum", ("step",), "sum"),),
      measure=self.count,
      init_carry=lambda params: {"count": 0, "sum": 0},
      uses=("square",),
    )
    users = [
      Measurement(name, 1, (), self.use(name), uses=("square", "counter"))
      for name in ("first", "second")
    ]
    # Measurements come before the ones that they use.
    self.experiment = Experiment(
      *[None] * 6, (*users, counter), {"square": self.square}, ""
    )

  def square(self, state, batches):
    self.made.append("square")
    return state.step**2 + batches

  def count(self, inputs):
    self.made.append("counter")
    count = inputs.carry["count"] + 1
    total = inputs.carry["sum"] + inputs.used["square"]
    return {"count": count, "sum": total, "large": [count]}

  def use(self, name):
    def measure(inputs):
      self.made.append(name)
      return {name: inputs.used["counter"]["sum"] + inputs.used["square"]}

    return measure

  def measure(self, step, carries, *due):
    """Measures at a step; returns the carries and the recorded arrays."""
    state, recorded = SimpleNamespace(step=step, params=None), {}
    snapshot = loop.measure(
      self.experiment,
      Snapshot(state, carries),
      1,
      lambda measurement, _: measurement.name in due,
      lambda measurement, arrays: recorded.update({measurement.name: arrays}),
    )
    return snapshot.carries, recorded

  def test_each_is_made_once_and_after_its_dependencies(self):
    _, recorded = self.measure(3, {}, "first", "second")
    self.assertEqual(self.made, ["square", "counter", "first", "second"])
    self.assertEqual(recorded["first"], {"first": 20})
    self.assertEqual(recorded["second"], {"second": 20})

  def test_a_dependency_is_recorded_even_if_it_is_not_due(self):
    _, recorded = self.measure(3, {}, "second")
    self.assertEqual(list(recorded), ["counter", "second"])
    # Undeclared arrays of the carry are only written to checkpoints.
    self.assertEqual(recorded["counter"], {"sum": 10, "large": [1]})

  def test_a_measurement_that_is_off_can_be_requested(self):
    self.assertEqual(list(self.measure(3, {}, "counter")[1]), ["counter"])

  def test_nothing_is_due(self):
    carries = {"counter": {"count": 4, "sum": 7}}
    self.assertEqual(self.measure(3, carries), (carries, {}))
    self.assertEqual(self.made, [])

  def test_the_carry_holds_the_newest_arrays_of_the_same_names(self):
    carries = {"counter": {"count": 4, "sum": 7}}
    after, _ = self.measure(3, carries, "first")
    self.assertEqual(after, {"counter": {"count": 5, "sum": 17}})
    # The caller's carries do not change, so a step can be repeated.
    self.assertEqual(carries, {"counter": {"count": 4, "sum": 7}})

  def test_a_measurement_without_a_carry_leaves_none(self):
    after, recorded = self.measure(3, {}, "first")
    self.assertEqual(after, {})
    self.assertEqual(recorded["counter"]["sum"], 10)

  def test_dependencies_belong_to_the_measurements_of_a_run(self):
    names = [each.name for each in self.experiment.measurements]
    self.assertEqual(names, ["first", "second", "counter"])
    *users, _ = self.experiment.all_measurements
    off = tuple(each._replace(interval=0) for each in users)
    off = self.experiment._replace(all_measurements=off)
    self.assertEqual(off.measurements, ())


class ParticipationTest(absltest.TestCase):
  def measure(self, *vectors):
    """Measures vectors [k, ...], one argument for each parameter array."""
    size = sum(v[0].size for v in vectors)
    config = make_config(tiny_config().to_dict())
    sizes = SimpleNamespace(partition=SimpleNamespace(ids=np.zeros(size)))
    measurement = make_participation(config, None, sizes)
    top = {f"w_{i}": jnp.asarray(v) for i, v in enumerate(vectors)}
    used = {"spectra": {"top": top}}
    (ratio,) = measurement.measure(Inputs(None, None, used, {})).values()
    (null,) = measurement.nulls(Inputs(None, None, {}, {})).values()
    return ratio, float(null)

  def test_one_parameter_and_all_parameters_equally(self):
    one, alike = np.eye(20)[3], np.full(20, 20**-0.5)
    rows = np.float32([one, alike])
    ratio, _ = self.measure(rows[:, :12].reshape(2, 3, 4), rows[:, 12:])
    np.testing.assert_allclose(ratio, [1 / 20, 1], rtol=1e-6)

  def test_random_directions_have_the_null_value(self):
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((50, 3000))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows = np.float32(rows)
    ratio, null = self.measure(
      rows[:, :1000].reshape(50, 20, 50), rows[:, 1000:]
    )
    self.assertEqual(ratio.shape, (50,))
    self.assertAlmostEqual(null, 1 / 3, places=6)
    self.assertAlmostEqual(float(np.mean(ratio)), null, delta=0.005)


def make_entropy(config, model, curvature):
  """Entropy of the top eigenvectors' squares, and the eigenvectors."""
  log_size = np.float32(np.log(curvature.partition.ids.size))

  def measure(inputs):
    top = inputs.used["spectra"]["top"]
    flat = jax.vmap(lambda tree: ravel_pytree(tree)[0])(top)
    entropy = jnp.sum(jax.scipy.special.entr(flat**2), axis=1)
    return {"top_entropy": entropy, **top}

  variables = (
    Variable("top_entropy", ("step", "eig"), "entropy of v^2", "nats"),
    Variable("top_entropy_null", (), "entropy of v^2, all alike", "nats"),
  )
  return Measurement(
    name="entropy",
    interval=4,
    variables=variables,
    measure=measure,
    nulls=lambda _: {"top_entropy_null": log_size},
    uses=("spectra",),
  )


@pytest.mark.slow
class OutsideTest(absltest.TestCase):
  """A run with a measurement registered from outside the package."""

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.enterClassContext(
      mock.patch.dict(MEASUREMENTS, {"entropy": Entry(make_entropy)})
    )
    cls.root = Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
    cls.directory, cls.experiment, cls.solved = cls.train(
      "on", spectra__eigen_interval=8, spectra__keep_eigenvectors=True
    )
    cls.results = write_results(cls.experiment, cls.directory)

  @classmethod
  def train(cls, name, **settings):
    """Trains; returns the run, its experiment and the steps of Lanczos."""
    values = tiny_config(
      train__num_steps=8,
      checkpoint__interval=8,
      circuits__interval=0,
      ablation__interval=0,
      participation__interval=8,
      spectra__preconditioned_top_k=0,
      **settings,
    )
    config = make_config(values.to_dict())
    experiment, solved = make_experiment(config), []

    def count(measurement):
      if measurement.name != "spectra":
        return measurement

      def measure(inputs):
        solved.append(int(inputs.state.step))
        return measurement.measure(inputs)

      return measurement._replace(measure=measure)

    counted = tuple(count(each) for each in experiment.all_measurements)
    experiment = experiment._replace(all_measurements=counted)
    run = open_run(cls.root / name, config, resume=True)
    run_in(run, experiment)
    return run, experiment, solved

  def recorded(self, run, kind="measurement"):
    """Recorded steps of each measurement in the history."""
    steps = {}
    for record in history.read(run.history):
      if record["kind"] == kind:
        steps.setdefault(record["measurement"], []).append(record["step"])
    return steps

  def kept(self, name, step, prefix=""):
    """Eigenvectors [k, P] from a measurement's file."""
    found = tensors.read_arrays(self.directory.root / name, step)
    rows = [
      np.reshape(found[f"{prefix}{each}"], (2, -1)).astype(np.float64)
      for each in sorted(self.experiment.init().params)
    ]
    return np.concatenate(rows, axis=1)

  def test_it_is_in_the_history_and_in_the_results(self):
    steps = self.recorded(self.directory)
    self.assertEqual(steps["entropy"], [0, 4, 8])
    self.assertEqual(steps["participation"], [0, 8])
    self.assertEqual(self.recorded(self.directory, "constants")["entropy"], [0])
    found = self.results.top_entropy.dropna("step")
    np.testing.assert_array_equal(found.step, [0, 4, 8])
    self.assertEqual(found.dims, ("step", "eig"))
    self.assertEqual(found.attrs["long_name"], "entropy of v^2")
    self.assertEqual(found.attrs["units"], "nats")
    self.assertGreater(float(self.results.top_entropy_null), float(found.max()))
    squares = self.kept("eigenvectors", 8, "top.") ** 2
    expected = [-sum(x * np.log(x) for x in row if x > 0) for row in squares]
    np.testing.assert_allclose(found.sel(step=8), expected, rtol=1e-5)

  def test_lanczos_ran_once_a_step_for_all_its_users(self):
    self.assertEqual(self.solved, [0, 4, 8])
    self.assertEqual(self.recorded(self.directory)["spectra"], [0, 4, 8])

  def test_undeclared_arrays_are_written_to_files(self):
    directory = self.directory.root / "entropy"
    self.assertEqual(
      sorted(path.name for path in directory.iterdir()),
      ["00000000.npz", "00000004.npz", "00000008.npz"],
    )
    np.testing.assert_array_equal(
      self.kept("entropy", 8), self.kept("eigenvectors", 8, "top.")
    )
    found = [
      set(record["values"])
      for record in history.read(self.directory.history)
      if record.get("measurement") == "entropy"
    ]
    self.assertEqual(found, [{"top_entropy_null"}, *[{"top_entropy"}] * 3])
    # The carry is written to checkpoints and not to files.
    self.assertFalse((self.directory.root / "spectra").exists())

  def test_overlap_is_with_the_previous_measurement(self):
    overlap = self.results.top_overlap.sel(step=[0, 4, 8]).values
    self.assertTrue(np.isnan(overlap[0]))
    v = [self.kept("entropy", step) for step in (0, 4, 8)]
    expected = [np.sum((v[i] @ v[i + 1].T) ** 2) / 2 for i in range(2)]
    np.testing.assert_allclose(overlap[1:], expected, rtol=1e-4)

  def test_participation_equals_a_loop(self):
    found = self.results.top_participation_ratio.sel(step=8).values
    for i, row in enumerate(self.kept("eigenvectors", 8, "top.")):
      expected = 1 / (len(row) * sum(x**4 for x in row))
      np.testing.assert_allclose(found[i], expected, rtol=1e-5)
    null = float(self.results.top_participation_ratio_null)
    self.assertAlmostEqual(null, 1 / 3, places=6)

  def test_spectra_that_are_off_are_measured_if_used(self):
    run, experiment, solved = self.train("off", spectra__eigen_interval=0)
    self.assertEqual(solved, [0, 4, 8])
    steps = self.recorded(run)
    self.assertEqual(steps["spectra"], [0, 4, 8])
    self.assertEqual(steps, self.recorded(self.directory))
    results = write_results(experiment, run)
    for name in (
      "top_eigenvalues",
      "top_overlap",
      "top_alignment_null",
      "top_entropy",
    ):
      np.testing.assert_array_equal(results[name], self.results[name], name)


if __name__ == "__main__":
  absltest.main()
