"""A network that performs induction exactly gets the scores of one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest

from induction_jax import circuits, tasks
from induction_jax.model import make_model
from tests.hand_built import induction_net

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
  return found | {"predictable": np.asarray(batch.predictable)}


class InductionNetTest(absltest.TestCase):
  def test_predicts_what_can_be_predicted(self):
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
    self.assertGreater(found["composition"]["k"][1, 1, 0, 0], 0.1)

  def test_idle_heads_score_nothing(self):
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
