"""Recall of associative memories against loops and a hand-built network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from induction_jax import circuits
from induction_jax.circuits import CircuitWeights
from induction_jax.config import make_config
from induction_jax.measurements import (
  MEASUREMENTS,
  EvaluationBatches,
  Inputs,
)
from induction_jax.measurements.memory import make_memory
from induction_jax.model import make_model
from induction_jax.training.state import TrainState
from induction_jax.types import Batch
from tests.tiny import tiny_config

V, T = 6, 8
D = 2 * V + T  # the current token, the previous token, the position


def _part(first: int, size: int) -> np.ndarray:  # [D, size]
  """Reads `size` coordinates of the residual from `first` on."""
  return np.eye(D)[:, first : first + size]


def _induction() -> tuple[CircuitWeights, np.ndarray]:
  """The weights of an exact induction head, and its position vectors.

  L0H0 attends to the previous position and copies its token into the second
  part of the residual; L1H0 matches that against the current token and writes
  the token it attends to. L0H1 and L1H1 are zero.
  """
  K = V + T
  w_q, w_k, w_v, w_o = np.zeros((4, 2, 2, D, K))
  token, previous, place = _part(0, V), _part(V, V), _part(2 * V, T)
  w_q[0, 0, :, :T] = place @ np.eye(T, k=-1)  # t asks for t - 1
  w_k[0, 0, :, :T] = place
  w_v[0, 0, :, :V] = w_v[1, 0, :, :V] = token
  w_o[0, 0, :, :V] = previous
  w_q[1, 0, :, :V] = token
  w_k[1, 0, :, :V] = previous
  w_o[1, 0, :, :V] = token
  weights = CircuitWeights(
    w_e=token.T,
    w_q=w_q,
    w_k=w_k,
    w_v=w_v,
    w_o=np.swapaxes(w_o, 2, 3),
    w_u=token,
  )
  return jax.tree.map(jnp.asarray, weights), place.T


def _random() -> tuple[CircuitWeights, np.ndarray]:
  weights, places = _induction()
  rng = np.random.default_rng(0)
  random = jax.tree.map(
    lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), weights
  )
  return random, rng.normal(size=places.shape)


class RecallTest(absltest.TestCase):
  def test_a_perfect_induction_head_has_recall_one(self):
    weights, places = _induction()
    position = circuits.position_recall(places, weights.w_q, weights.w_k)
    output = circuits.output_recall(weights)
    key = circuits.key_recall(weights, np.arange(V))
    self.assertEqual(position[0, 0], 1)
    self.assertEqual(output[1, 0], 1)
    self.assertEqual(key[1, 0, 0, 0], 1)
    # Zero heads retrieve the first candidate, which is correct once.
    self.assertAlmostEqual(float(position[0, 1]), 1 / (T - 1), places=6)
    self.assertAlmostEqual(float(output[1, 1]), 1 / V, places=6)
    self.assertAlmostEqual(float(key[1, 0, 0, 1]), 1 / V, places=6)
    # The previous-token head does not write tokens where they are unembedded.
    self.assertAlmostEqual(float(output[0, 0]), 1 / V, places=6)

  def test_recall_falls_by_removed_pairs(self):
    weights, places = _induction()
    # Position 5 does not query position 4, token 2 is not written, and the
    # copy of token 3 is not read.
    w_q = weights.w_q.at[0, 0, 2 * V + 5].set(0)
    w_k = weights.w_k.at[1, 0, V + 3].set(0)
    w_o = weights.w_o.at[1, 0, 2].set(0)
    changed = weights._replace(w_q=w_q, w_k=w_k, w_o=w_o)
    position = circuits.position_recall(places, w_q, w_k)[0, 0]
    self.assertAlmostEqual(float(position), (T - 2) / (T - 1), places=6)
    output = circuits.output_recall(changed)[1, 0]
    self.assertAlmostEqual(float(output), (V - 1) / V, places=6)
    for tokens, expected in (range(V), (V - 1) / V), ([3, 5], 0.5), ([0], 1):
      key = circuits.key_recall(changed, np.array(tokens))[1, 0, 0, 0]
      self.assertAlmostEqual(float(key), expected, places=6)

  def test_against_loops(self):
    weights, places = _random()
    e, q, k, v, o, u = (np.asarray(x, np.float64) for x in weights)
    position = circuits.position_recall(places, weights.w_q, weights.w_k)
    output = circuits.output_recall(weights)
    tokens = np.array([1, 4, 5, 0])
    key = circuits.key_recall(weights, tokens)
    for i in range(2):
      for h in range(2):
        score = places @ q[i, h] @ k[i, h].T @ places.T
        hits = [np.argmax(score[t, : t + 1]) == t - 1 for t in range(1, T)]
        self.assertAlmostEqual(float(position[i, h]), np.mean(hits), places=6)
        logits = e @ v[i, h] @ o[i, h] @ u
        hits = [np.argmax(logits[token]) == token for token in range(V)]
        self.assertAlmostEqual(float(output[i, h]), np.mean(hits), places=6)
        for j in range(2):
          for g in range(2):
            keys = e @ v[j, g] @ o[j, g] @ k[i, h]
            score = e @ q[i, h] @ keys.T
            hits = [np.argmax(score[token]) == token for token in tokens]
            expected = np.mean(hits) if j < i else np.nan
            np.testing.assert_allclose(key[i, h, j, g], expected, atol=1e-6)

  def test_null_of_positions(self):
    # Random scores retrieve each position up to t with equal probability.
    score = np.random.default_rng(0).normal(size=(4000, T, T))
    hits = [
      np.argmax(score[:, t, : t + 1], axis=1) == t - 1 for t in range(1, T)
    ]
    null = float(circuits.null_position_recall(T))
    self.assertAlmostEqual(null, np.mean(hits), delta=0.01)


def _measure(**settings) -> tuple[dict, dict]:
  """Parameters of a tiny network, and their recalls."""
  values = tiny_config(task__name="bigram_trigger", **settings)
  config = make_config(values.to_dict())
  task = config.task
  model = make_model(config.model, task.vocab_size, task.seq_length)
  params = model.init(jax.random.key(0))
  # Scales different from their initial value 1.
  params |= {"norm_scale": jnp.linspace(0.1, 3, 16).reshape(2, 8)}
  state = TrainState(jnp.zeros((), int), params, (), jax.random.key(1))
  tokens = jnp.zeros((1, task.seq_length), int)
  batch = Batch(tokens, tokens, tokens > 0)
  measurement = make_memory(config)
  inputs = Inputs(state, EvaluationBatches(*[batch] * 4), {}, {})
  values = measurement.measure(inputs) | measurement.nulls(inputs)
  assert values.keys() <= {variable.name for variable in measurement.variables}
  return params, values


@pytest.mark.slow
class MemoryMeasurementTest(parameterized.TestCase):
  @parameterized.parameters("learned", "shortformer")
  def test_positions_are_read_where_they_are_added(self, position):
    params, values = _measure(model__position=position)
    for name in "w_k1_recall", "w_k2_recall", "w_o2_recall":
      self.assertContainsSubset([name, f"{name}_null"], values)
    for layer in range(2):
      w_pos = np.asarray(params["w_pos"], np.float64)
      if position == "learned":  # before the norm: centred and scaled
        w_pos = w_pos - w_pos.mean(axis=1, keepdims=True)
        w_pos = w_pos * np.asarray(params["norm_scale"])[layer]
      for head in range(2):
        expected = self._recall(params, w_pos, layer, head)
        found = values["w_k1_recall"][layer, head]
        self.assertAlmostEqual(float(found), expected, places=6)

  def _recall(self, params, w_pos, layer, head):
    w_q, w_k = (np.asarray(params[x])[layer, head] for x in ("w_q", "w_k"))
    score = w_pos @ w_q @ w_k.T @ w_pos.T
    hits = [np.argmax(score[t, : t + 1]) == t - 1 for t in range(1, len(w_pos))]
    return np.mean(hits)

  def test_recall_is_over_fixed_triggers_only(self):
    _, values = _measure(task__fixed_triggers=True, task__triggers=2)
    shares = np.unique(values["w_k2_recall"][1, :, 0])
    self.assertContainsSubset(shares.tolist(), [0.0, 0.5, 1.0])

  @parameterized.parameters(("bigram_trigger", True), ("repeats", False))
  def test_applies_to_its_own_task_only(self, name, applies):
    config = make_config(tiny_config(task__name=name).to_dict())
    self.assertEqual(MEASUREMENTS["memory"].applies_to(config), applies)
    self.assertEqual(make_memory(config).interval, 1)

  def test_rotary_positions_have_no_vectors(self):
    _, values = _measure(model__position="rotary")
    self.assertSetEqual(
      set(values),
      {f"w_{x}_recall{null}" for x in ("k2", "o2") for null in ("", "_null")},
    )


if __name__ == "__main__":
  absltest.main()
