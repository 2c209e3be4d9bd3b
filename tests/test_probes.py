"""Probes: spectra from one measurement to the next; what circuits record."""

from unittest import mock

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from induction_jax.measurements.solve import Wanted, find_spectra, make_solve

from induction_jax import circuits, spectra
from induction_jax.config import make_config
from induction_jax.measurements import behaviour, curvature
from induction_jax.run import measuring
from induction_jax.run.experiment import make_experiment, make_pure_experiment
from tests.tiny import tiny_config

# Scores of the tiny network's two heads.
TWO_SEQUENCES = 2 * 4 * 2 * 16**2


def make_probe(name="spectra", **settings):
  """A probe of an experiment, its first state and held-out batches."""
  values = tiny_config(spectra__preconditioned_top_k=0, **settings)
  experiment = make_experiment(make_config(values.to_dict()))
  state = experiment.init()
  (probe,) = (p for p in experiment.probes if p.name == name)
  return probe, state, experiment.draw(state.key)


class FindSpectraTest(absltest.TestCase):
  def test_each_spectrum_is_widened_by_its_own_rounding(self):
    config = make_config(tiny_config().to_dict()).spectra
    solve = make_solve(config, basis=config.max_order, layout=spectra.UNSHARDED)
    # Of diag(w^3) + w w^T rounding of w changes the products, each as it falls.
    params = {"w": jnp.linspace(-3, 5, 30)}

    def operator_at(params):
      w = params["w"]
      return lambda v: {"w": w**3 * v["w"] + jnp.dot(w, v["w"]) * w}

    ones = {"w": jnp.ones(30)}
    halves = {"w": jnp.full(30, 0.5)}
    keys = jax.random.split(jax.random.key(1), 4)
    wanted = [
      Wanted("both_", ones, 3, 3, keys[0]),
      Wanted("top_", halves, 2, 0, keys[1]),
      Wanted("bottom_", ones, 0, 2, keys[2]),
    ]

    def alone(want, key):
      plain = solve(operator_at(params), params, want)
      rounding = spectra.rounding_error(
        spectra.extremes(plain),
        lambda params: spectra.rescale(operator_at(params), want.scale),
        params,
        key,
      )
      self.assertGreater(rounding, 0)
      return spectra.add_rounding(plain, rounding, 1e-2)

    with jax.debug_key_reuse(False):  # the same ones again, to compare
      found = find_spectra(
        solve, 1e-2, operator_at(params), operator_at, params, keys[3], wanted
      )
      expected = {
        want.prefix: alone(want, key)
        for want, key in zip(wanted, jax.random.split(keys[3], 3))
      }
    chex.assert_trees_all_close(found, expected, rtol=1e-4)


class BasisTest(parameterized.TestCase):
  @parameterized.parameters(("none", 4 + 15), ("onto", 12 + 15))
  def test_where_memory_is_short_it_has_room_for_all_that_is_wanted(
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
    told = curvature.make_curvature(config, model).told
    self.assertIn(f"basis of {rows} vectors", told)


@pytest.mark.slow
class WarmStartTest(absltest.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.measured = make_probe(spectra__warm_start=True, spectra__max_order=40)

  def test_warm_while_both_eigenspaces_last_and_cold_every_so_often(self):
    probe, state, held_out = self.measured
    seen, carry = [], probe.init_carry(state.params)
    for _ in range(3):
      values, carry = measuring.measure(probe, state, held_out, carry)
      seen.append(float(values["warm_start"]))
    # The second knows no overlap yet; the third that of the first two.
    self.assertEqual(seen, [0, 0, 1])
    self.assertEqual(int(carry.since_cold), 1)
    lower = min(values["top_overlap"], values["bottom_overlap"])
    self.assertAlmostEqual(float(carry.overlap), float(lower))

    for changes in (
      {"overlap": jnp.float32(0.5)},
      {"since_cold": jnp.int32(spectra.warm.AUDIT_EVERY - 1)},
    ):
      values, after = measuring.measure(
        probe, state, held_out, carry._replace(**changes)
      )
      self.assertEqual(float(values["warm_start"]), 0)
      self.assertEqual(int(after.since_cold), 0)

  def test_the_lower_overlap_counts(self):
    probe, state, held_out = self.measured
    carry = probe.init_carry(state.params)
    _, carry = measuring.measure(probe, state, held_out, carry)
    # At the bottom something else was found before.
    other = jax.tree.map(lambda x: x[::-1].at[:].set(0.01), carry.bottom)
    values, after = measuring.measure(
      probe, state, held_out, carry._replace(bottom=other)
    )
    self.assertGreater(float(values["top_overlap"]), 0.9)
    self.assertLess(float(after.overlap), 0.5)


class SettingsTest(absltest.TestCase):
  def test_all_reach_lanczos(self):
    probe, state, held_out = make_probe(
      spectra__max_order=30,
      spectra__max_basis=9,
      spectra__tolerance=0.03,
      spectra__track_top_k_eigenvalues=3,
    )
    with mock.patch.object(
      spectra, "lanczos", side_effect=spectra.lanczos
    ) as lanczos:
      prepared = jax.eval_shape(probe.prepare, state, held_out)
      carry = probe.init_carry(state.params)
      jax.eval_shape(probe.measure, state, held_out, prepared, carry)
    (call,) = lanczos.call_args_list
    asked = dict(call.kwargs)
    del asked["start"], asked["sharding"]
    self.assertEqual(
      asked,
      {
        "k_top": 3,
        "k_bottom": 3,
        "max_order": 30,
        "max_basis": 9,
        "tolerance": 0.03,
      },
    )


class PartsTest(parameterized.TestCase):
  """What a CPU does with a batch whose scores do not fit its cache."""

  def test_behaviour_is_that_of_the_whole_batch(self):
    # So few words that sequences differ in how many can be predicted.
    probe, state, held_out = make_probe("behaviour", task__pattern_max=9)
    counts = jnp.sum(held_out.induction.predictable, axis=1)
    self.assertNotEqual(*jnp.sum(counts.reshape(2, 2), axis=1))
    whole, _ = measuring.measure(probe, state, held_out, ())
    with mock.patch.object(behaviour, "MEASURING_BYTES", TWO_SEQUENCES):
      probe, _, _ = make_probe("behaviour", task__pattern_max=9)
    lowered = probe.measure.lower(state, held_out, (), ()).as_text()
    self.assertIn("2x2x16x16xf32", lowered)
    self.assertNotIn("4x2x16x16xf32", lowered)
    parts, _ = measuring.measure(probe, state, held_out, ())
    chex.assert_trees_all_close(parts, whole, rtol=1e-5, atol=1e-6)

  @parameterized.parameters(
    # asked, clamp, products
    (0, "", "streamed, micro-batch of 2"),
    (0, "mean 0.0", "linear map"),
    (4, "", "linear map"),
  )
  def test_products(self, asked, clamp, expected):
    values = tiny_config(
      spectra__micro_batch_size=asked, intervention__clamp=clamp
    )
    with mock.patch.object(curvature, "MEASURING_BYTES", TWO_SEQUENCES):
      experiment = make_experiment(make_config(values.to_dict()))
    self.assertStartsWith(experiment.products, expected)


class CircuitsTest(absltest.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    probe, cls.state, held_out = make_probe(
      "circuits", circuits__top_k=2, circuits__rotary_offset=3
    )
    cls.constants = measuring.measure_constants(probe, cls.state, held_out)
    cls.values, _ = measuring.measure(probe, cls.state, held_out, ())
    cls.variables = {variable.name: variable for variable in probe.variables}

  def test_all_that_is_declared_is_measured_with_its_null(self):
    found = self.values | self.constants
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
    params = jax.tree.map(np.asarray, self.state.params)
    weights = circuits.fold_norms(params, "layernorm")
    n = jax.tree.map(lambda x: np.asarray(x, np.float64), weights)
    for offset, name in (0, "qk_matching"), (3, "qk_matching_at_offset"):
      # Pairs (i, i + K / 2) turn together: K = 4.
      angle = offset * np.array([1.0, 0.01])
      query = n.w_q[1, 0][:, :2] + 1j * n.w_q[1, 0][:, 2:]
      query = query * np.exp(1j * angle)
      turned = np.concatenate([query.real, query.imag], axis=1)
      full = n.w_e @ turned @ n.w_k[1, 0].T @ n.w_e.T
      values = np.linalg.eigvals(full)
      score = values.real.sum() / np.abs(values).sum()
      self.assertAlmostEqual(float(self.values[name][1, 0]), score, places=4)

  def test_settings_reach_the_fractions(self):
    self.assertAlmostEqual(
      float(self.constants["ov_copied_fraction_null"]), 2 / 11
    )
    weights = circuits.fold_norms(self.state.params, "layernorm")
    np.testing.assert_allclose(
      self.values["ov_copied_fraction"], circuits.copied_fraction(weights, 2)
    )

  def test_nulls_are_those_of_random_circuits(self):
    samples = self.constants["virtual_copying_null_samples"]
    self.assertEqual(samples.shape, (64 * 4,))
    self.assertAlmostEqual(
      float(self.constants["virtual_copying_null_sd"]),
      np.sqrt(np.mean(samples**2)),
      places=5,
    )
    # At the start heads are random: most of them within two spreads.
    for name in ("ov_copying", "qk_matching", "k_composed_matching"):
      scores = self.values[name]
      inside = np.abs(scores) < 2 * self.constants[f"{name}_null_sd"]
      self.assertGreaterEqual(np.mean(inside[~np.isnan(scores)]), 0.75)


if __name__ == "__main__":
  absltest.main()
