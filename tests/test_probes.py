"""The spectra probe from one measurement to the next."""

from unittest import mock

import jax
import jax.numpy as jnp
from absl.testing import absltest

from induction_jax import loop, spectra
from induction_jax.config import make_config
from tests.tiny import tiny_config


def make_probe(**settings):
  """An experiment's spectra probe, its first state and held-out batches."""
  values = tiny_config(spectra__preconditioned_top_k=0, **settings)
  experiment = loop.make_experiment(make_config(values.to_dict()))
  state = experiment.init()
  (probe,) = (p for p in experiment.probes if p.name == "spectra")
  return probe, state, experiment.draw(state.key)


class WarmStartTest(absltest.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.measured = make_probe(spectra__warm_start=True, spectra__max_order=40)

  def test_warm_while_both_eigenspaces_last_and_cold_every_so_often(self):
    probe, state, held_out = self.measured
    seen, carry = [], probe.init_carry(state.params)
    for _ in range(3):
      values, carry = loop.measure(probe, state, held_out, carry)
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
      values, after = loop.measure(
        probe, state, held_out, carry._replace(**changes)
      )
      self.assertEqual(float(values["warm_start"]), 0)
      self.assertEqual(int(after.since_cold), 0)

  def test_the_lower_overlap_counts(self):
    probe, state, held_out = self.measured
    carry = probe.init_carry(state.params)
    _, carry = loop.measure(probe, state, held_out, carry)
    # At the bottom something else was found before.
    other = jax.tree.map(lambda x: x[::-1].at[:].set(0.01), carry.bottom)
    values, after = loop.measure(
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
    asked = {k: v for k, v in call.kwargs.items() if k != "start"}
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


if __name__ == "__main__":
  absltest.main()
