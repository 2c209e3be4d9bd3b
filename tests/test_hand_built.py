"""A network built to perform induction has the scores of perfect heads."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest

from induction_jax import circuits, tasks
from induction_jax.config import make_config
from induction_jax.measurements import Inputs, make_draw_batches
from induction_jax.measurements.ablation import make_ablation
from induction_jax.measurements.behaviour import make_behaviour
from induction_jax.model import make_model
from induction_jax.report import findings
from induction_jax.storage import dataset
from induction_jax.training.state import TrainState
from tests.hand_built import induction_net
from tests.tiny import tiny_config

V, T, H = 11, 24, 2


@functools.cache
def measured(previous_token_head=0, induction_head=1):
  config, params = induction_net(V, T, H, previous_token_head, induction_head)
  batch = tasks.sample_repeats(
    jax.random.key(0), 8, V, T, pattern=(3, 5), gap=(0, 3)
  )

  @jax.jit
  def measure(params):
    logits, activations = make_model(config, V, T).apply(params, batch.tokens)
    weights = circuits.fold_norms(params, config.norm)
    return {
      "right": jnp.argmax(logits, axis=-1) == batch.targets,
      "attention": circuits.score_heads(activations.pattern, batch)._asdict(),
      "ov": circuits.copying_matrices(weights),
      "k_composed": circuits.k_composed_matrices(weights),
      "copied": circuits.copied_fraction(weights, 1),
      "composition": circuits.composition(weights)._asdict(),
    }

  found = jax.device_get(measure(params))
  for name in ("ov", "k_composed"):
    values = circuits.eigenvalues(found[name])
    found[name] = circuits.eigenvalue_score(values)
  return found | {
    "predictable": np.asarray(batch.predictable),
    "d_model": config.d_model,
  }


@functools.cache
def results():
  """Results of a run whose network performs induction from step 0 on."""
  network, params = induction_net(V, T, H)
  config = make_config(
    tiny_config(
      task__seq_length=T,
      task__pattern_min=3,
      task__pattern_max=5,
      task__gap_max=3,
      **{f"model__{k}": v for k, v in dataclasses.asdict(network).items()},
      behaviour__batch_size=8,
      ablation__batch_size=8,
      ablation__pairs=False,
    ).to_dict()
  )
  model = make_model(config.model, V, T)
  measurements = (
    make_behaviour(config, model, None),
    make_ablation(config, model, None),
  )
  state = TrainState(jnp.int32(0), params, (), jax.random.key(1))

  @jax.jit
  def measure(state):
    inputs = Inputs(state, make_draw_batches(config)(state.key), {}, {})
    return [
      values
      for each in measurements
      for values in (each.nulls(inputs), each.measure(inputs))
    ]

  records = [
    {"step": 0, "values": values} for values in jax.device_get(measure(state))
  ]
  variables = sum((each.variables for each in measurements), ())
  return dataset.make_dataset(records, variables, {}, {})


class InductionNetTest(absltest.TestCase):
  def test_predicts_predictable_tokens(self):
    found = measured()
    self.assertTrue(found["right"][found["predictable"]].all())
    self.assertLess(found["right"][~found["predictable"]].mean(), 0.4)

  def test_heads_score_one(self):
    found = measured()
    self.assertGreater(found["attention"]["previous_token"][0, 0], 0.99)
    self.assertGreater(found["attention"]["prefix_matching"][1, 1], 0.99)
    self.assertGreater(found["ov"][1, 1], 0.9)
    self.assertEqual(found["copied"][1, 1], 1)
    self.assertGreater(found["k_composed"][1, 1, 0, 0], 0.9)
    null = found["d_model"] ** -0.5
    self.assertGreater(found["composition"]["k"][1, 1, 0, 0], 1.3 * null)

  @pytest.mark.slow
  def test_verdict_is_positive(self):
    found = findings.find(results())
    self.assertTrue(found.verdict.has_induction_head, found.verdict.reasons)
    self.assertEqual(found.induction_head[:2], (1, 1))
    self.assertEqual(found.previous_token_head[:2], (0, 0))

  def test_zero_heads_score_zero(self):
    found = measured()
    idle = np.ones((2, H), bool)
    idle[0, 0] = idle[1, 1] = False
    np.testing.assert_array_equal(found["ov"][idle], 0)
    np.testing.assert_array_equal(found["copied"][idle], 0)
    for ratio in found["composition"].values():
      np.testing.assert_array_equal(ratio[1, 0, 0], 0)
      np.testing.assert_array_equal(ratio[1, :, 0, 1], 0)

  def test_permuting_heads_permutes_scores(self):
    found, permuted = measured(), measured(1, 0)
    for name in ("previous_token", "prefix_matching", "duplicate_token"):
      a, b = found["attention"][name], permuted["attention"][name]
      np.testing.assert_allclose(a[:, ::-1], b, atol=1e-6)
    np.testing.assert_allclose(found["ov"][:, ::-1], permuted["ov"])
    np.testing.assert_allclose(
      found["k_composed"][:, ::-1, :, ::-1], permuted["k_composed"]
    )


if __name__ == "__main__":
  absltest.main()
