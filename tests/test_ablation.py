"""Ablations, ideal patterns and paths, against loops in numpy."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from induction_jax import circuits, tasks
from induction_jax.config import make_config
from induction_jax.interventions import clamp_heads
from induction_jax.measurements import EvaluationBatches, Inputs
from induction_jax.measurements.ablation import KINDS, make_ablation
from induction_jax.model import Edits, make_model
from induction_jax.training.state import TrainState
from tests.test_model import _forward
from tests.tiny import tiny_config

L, H, B, T = 2, 2, 3, 12
HEADS = list(itertools.product(range(L), range(H)))
# Clamped outputs. The mean clamp is in the first layer, where the oracle can
# compute the mean from a single layer.
AVERAGED, SILENT = (0, 0), (1, 1)
CLAMPS = ("", "mean 0.0, zero 1.1")


def make_measure(**settings):
  """Makes (config, params, batch, measure) for a tiny network."""
  sizes = {"task__seq_length": T, "ablation__batch_size": B}
  config = make_config(tiny_config(**(sizes | settings)).to_dict())
  model = make_model(config.model, config.task.vocab_size, T)
  model = clamp_heads(model, config.intervention.clamp, config.model)
  batch = jax.jit(tasks.make_repeats(config.task, B + 1))(jax.random.key(3))
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  rng = np.random.default_rng(0)
  params = {
    name: jnp.asarray(rng.normal(0.2, 0.6, shapes[name].shape), jnp.float32)
    for name in sorted(shapes)
  }
  ablation = make_ablation(config, model, None)
  batches = EvaluationBatches(*[batch] * 4)

  def measure(params):
    state = TrainState(jnp.int32(0), params, (), jax.random.key(0))
    return ablation.measure(Inputs(state, batches, {}, {}))

  first = jax.tree.map(lambda x: np.asarray(x[:B]), batch)
  return config, params, first, measure


def only(head, change):
  """An edit of one head in arrays [H, ...] of its layer."""

  def edit(layer, array, *rest):
    array = array.copy()
    if layer == head[0]:
      array[head[1]] = change(array[head[1]], *rest)
    return array

  return edit


def look_back(pattern, tokens):
  ideal = np.zeros_like(pattern)
  ideal[0, 0] = 1
  for t in range(1, len(tokens)):
    ideal[t, t - 1] = 1
  return ideal


def look_for_successors(pattern, tokens):
  ideal = pattern.copy()
  for t in range(len(tokens)):
    earlier = [s for s in range(t) if tokens[s] == tokens[t]]
    if earlier:
      ideal[t] = 0
      for s in earlier:
        ideal[t, s + 1] = 1 / len(earlier)
  return ideal


class Oracle:
  """The same measurements in float64, one sequence at a time.

  With clamps it is of a network whose head SILENT has no W_O, and whose head
  AVERAGED has its output replaced in each pass.
  """

  def __init__(self, config, params, batch):
    self.config, self.batch = config.model, batch
    self.params, self.clamped = params, bool(config.intervention.clamp)
    if self.clamped:
      self.params = params | {"w_o": params["w_o"].at[SILENT].set(0)}
    self.passes = self.run([Edits()] * B)
    self.intact = self.losses([Edits()] * B)
    self.pattern = [each[1] for each in self.passes]
    self.mean = np.mean([each[2] for each in self.passes], axis=(0, 3))

  def run(self, edits):
    """Runs one forward pass for each sequence, each with its own edits."""
    every = list(zip(self.batch.tokens, edits, strict=True))
    if self.clamped:
      first = dataclasses.replace(self.config, n_layers=1)
      free = [
        _forward(first, self.params, tokens, Edits(edit.pattern))[2][AVERAGED]
        for tokens, edit in every
      ]
      every = [
        (tokens, self.average(np.mean(free, axis=0), edit))
        for tokens, edit in every
      ]
    return [_forward(self.config, self.params, *each) for each in every]

  def average(self, mean, edit):
    """An edit applied after head AVERAGED got its mean output [T, D]."""
    give = only(AVERAGED, lambda _: mean)
    change = edit.output or (lambda _, output: output)
    return Edits(
      edit.pattern, lambda layer, output: change(layer, give(layer, output))
    )

  def losses(self, edits):
    return self.token_losses(np.stack([each[0] for each in self.run(edits)]))

  def token_losses(self, logits):
    exp = np.exp(logits)
    chosen = np.take_along_axis(exp, self.batch.targets[..., None], -1)[..., 0]
    return np.log(exp.sum(-1)) - np.log(chosen)

  def edits(self, kind, head):
    """The edits of one intervention on a head, for each sequence."""
    silent = only(head, np.zeros_like)
    if kind == "ablation":
      return [Edits(output=silent)] * B
    if kind == "mean_ablation":
      mean = self.mean[head]
      return [Edits(output=only(head, lambda x: 0 * x + mean))] * B
    if kind == "frozen_ablation":
      return [
        Edits(lambda layer, *_, b=b: self.pattern[b][layer], silent)
        for b in range(B)
      ]
    ideal = {
      "previous_token_pattern": look_back,
      "induction_pattern": look_for_successors,
    }[kind]
    return [Edits(pattern=only(head, ideal))] * B

  def estimate(self, values, random=False):
    """Mean over predictable (or other) tokens, and its standard error."""
    weights = np.asarray(self.batch.predictable, np.float64)
    weights = 1 - weights if random else weights
    total = weights.sum()
    mean = (values * weights).sum() / total
    off = [((v - mean) * w).sum() for v, w in zip(values, weights)]
    return mean, np.sqrt(B * np.var(off) * B / (B - 1)) / total

  def read(self, b, layer, residual):
    """A norm with frozen 1 / sigma; `layer` L is the final norm."""
    centred = self.passes[b][3][layer]
    centred = centred - centred.mean(-1, keepdims=True)
    sigma = np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
    scales = [*self.params["norm_scale"], self.params["final_norm_scale"]]
    residual = residual - residual.mean(-1, keepdims=True)
    return residual / sigma * np.asarray(scales[layer], np.float64)

  def logits(self, b, residual):
    w_u = np.asarray(self.params["w_u"], np.float64)
    return self.read(b, L, residual) @ w_u

  def path(self, heads):
    """Logits of the path through these heads, [B, T, V]."""
    x = [each[3][0] for each in self.passes]
    for head in heads:
      w_v, w_o = (
        np.asarray(self.params[w][head], np.float64) for w in ("w_v", "w_o")
      )
      x = [
        self.pattern[b][head] @ self.read(b, head[0], x[b]) @ w_v @ w_o
        for b in range(B)
      ]
      if self.clamped and head == AVERAGED:
        x = [np.mean(x, axis=0)] * B
    return np.stack([self.logits(b, x[b]) for b in range(B)])


@functools.cache
def measured(clamps):
  """The measurement, its values, and the oracle."""
  # With clamps, pairs need no test beyond single heads.
  config, params, batch, measure = make_measure(
    intervention__clamp=clamps, ablation__pairs=not clamps
  )
  measure = jax.jit(measure)
  return measure, jax.device_get(measure(params)), Oracle(config, params, batch)


@pytest.mark.slow
class AblationTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.measure, self.values, self.oracle = measured(CLAMPS[0])
    self.params = self.oracle.params

  def assert_estimate(self, name, index, values, random=False):
    mean, error = self.oracle.estimate(values, random)
    np.testing.assert_allclose(
      [self.values[name][index], self.values[f"{name}_se"][index]],
      [mean, error],
      rtol=2e-4,
      atol=2e-5,
      err_msg=f"{name} {index}",
    )

  @parameterized.product(clamps=CLAMPS, kind=tuple(KINDS))
  def test_costs_equal_loops(self, clamps, kind):
    _, self.values, self.oracle = measured(clamps)
    for head in HEADS:
      changed = self.oracle.losses(self.oracle.edits(kind, head))
      rise = changed - self.oracle.intact
      if not clamps or head not in (AVERAGED, SILENT):
        self.assertGreater(np.abs(rise).max(), 1e-2)
      self.assert_estimate(f"{kind}_cost", head, rise)
      self.assert_estimate(f"{kind}_cost_random", head, rise, random=True)

  def test_pairs_equal_loops(self):
    cost = self.values["pair_ablation_cost"]
    self.assertEqual(np.isfinite(cost).sum(), H * H)
    alone = self.values["ablation_cost"]
    for later, earlier in itertools.product(range(H), range(H)):
      both = Edits(
        output=lambda layer, x, heads=(earlier, later): np.where(
          np.arange(H)[:, None, None] == heads[layer], 0, x
        )
      )
      rise = self.oracle.losses([both] * B) - self.oracle.intact
      index = (1, later, 0, earlier)
      self.assert_estimate("pair_ablation_cost", index, rise)
      self.assert_estimate("pair_ablation_cost_random", index, rise, True)
      self.assertAlmostEqual(
        float(self.values["pair_ablation_cost_null"][index]),
        float(alone[1, later] + alone[0, earlier]),
        places=5,
      )

  def test_pairs_with_a_layer_between_or_above_equal_loops(self):
    config, params, batch, measure = make_measure(
      model__n_layers=3, model__n_heads=1, model__d_model=4
    )
    self.values = jax.jit(
      lambda params: {
        name: value
        for name, value in measure(params).items()
        if name.startswith("pair")
      }
    )(params)
    self.oracle = Oracle(config, params, batch)
    pairs = list(itertools.combinations(range(3), 2))
    cost = self.values["pair_ablation_cost"]
    self.assertEqual(np.isfinite(cost).sum(), len(pairs))
    for pair in pairs:
      both = Edits(
        output=lambda layer, x, pair=pair: 0 * x if layer in pair else x
      )
      rise = self.oracle.losses([both] * B) - self.oracle.intact
      self.assertGreater(np.abs(rise).max(), 1e-2)
      index = (pair[1], 0, pair[0], 0)
      self.assert_estimate("pair_ablation_cost", index, rise)

  def test_no_pattern_reads_the_last_layer(self):
    np.testing.assert_allclose(
      self.values["ablation_cost"][-1],
      self.values["frozen_ablation_cost"][-1],
      atol=1e-5,
    )

  def test_a_head_that_writes_nothing_costs_nothing(self):
    w_o = self.params["w_o"].at[0, 1].set(0)
    values = self.measure(self.params | {"w_o": w_o})
    for kind, random in itertools.product(KINDS, ("", "_random")):
      self.assertAlmostEqual(float(values[f"{kind}_cost{random}"][0, 1]), 0, 5)
      self.assertNotAlmostEqual(
        float(values[f"{kind}_cost{random}"][1, 1]), 0, 3
      )
    np.testing.assert_allclose(
      values["pair_ablation_cost"][1, :, 0, 1],
      values["ablation_cost"][1],
      atol=1e-5,
    )
    self.assertEqual(float(values["direct_attribution"][0, 1]), 0)

  def test_permuted_heads_have_permuted_scores(self):
    swapped = {
      name: self.params[name][:, ::-1] for name in ("w_q", "w_k", "w_v", "w_o")
    }
    values = self.measure(self.params | swapped)
    for name, was in self.values.items():
      if name.startswith(("path", "embedding")):
        expected = was
      else:
        expected = was[:, ::-1, :, ::-1] if was.ndim == 4 else was[:, ::-1]
      np.testing.assert_allclose(
        values[name], expected, rtol=1e-3, atol=1e-4, err_msg=name
      )

  @parameterized.parameters(*CLAMPS)
  def test_path_losses_equal_loops_over_all_paths(self, clamps):
    _, self.values, self.oracle = measured(clamps)
    total = np.zeros((B, T, self.oracle.params["w_u"].shape[1]))
    before = np.full((B, T), np.log(total.shape[-1]))
    for order in range(L + 1):
      paths = [
        heads
        for heads in itertools.combinations(HEADS, order)
        if len({layer for layer, _ in heads}) == order
      ]
      self.assertLen(paths, (1, 4, 4)[order])
      for heads in paths:
        total += self.oracle.path(heads)
      losses = self.oracle.token_losses(total)
      for random, suffix in ((False, ""), (True, "_random")):
        self.assert_estimate(f"path_loss{suffix}", order, losses, random)
        self.assert_estimate(
          f"path_importance{suffix}", order, before - losses, random
        )
      before = losses
    np.testing.assert_allclose(losses, self.oracle.intact, atol=1e-6)

  @parameterized.parameters(*CLAMPS)
  def test_direct_contributions_equal_loops_and_sum_to_the_logit(self, clamps):
    _, self.values, self.oracle = measured(clamps)
    targets = self.oracle.batch.targets

    def part(residual):  # [B, T]
      logits = np.stack([self.oracle.logits(b, residual(b)) for b in range(B)])
      chosen = np.take_along_axis(logits, targets[..., None], -1)[..., 0]
      return chosen - logits.mean(-1)

    passes = self.oracle.passes
    embedding = part(lambda b: passes[b][3][0])
    self.assert_estimate("embedding_attribution", (), embedding)
    for head in HEADS:
      written = part(lambda b, head=head: passes[b][2][head])
      self.assert_estimate("direct_attribution", head, written)
    whole, _ = self.oracle.estimate(part(lambda b: passes[b][3][-1]))
    parts = self.values["direct_attribution"].sum()
    self.assertAlmostEqual(
      float(parts + self.values["embedding_attribution"]), whole, 3
    )


class SizesTest(parameterized.TestCase):
  def test_without_pairs_and_with_mlps(self):
    _, params, _, measure = make_measure(
      ablation__pairs=False, model__d_mlp=3, model__n_layers=1
    )
    shapes = jax.eval_shape(measure, params)
    self.assertFalse([name for name in shapes if name.startswith("path")])
    self.assertFalse([name for name in shapes if name.startswith("pair")])
    self.assertEqual(shapes["ablation_cost"].shape, (1, H))
    self.assertEqual(shapes["direct_attribution"].shape, (1, H))

  def test_one_layer_has_no_pairs(self):
    _, params, _, measure = make_measure(model__n_layers=1)
    shapes = jax.eval_shape(measure, params)
    self.assertEqual(shapes["pair_ablation_cost"].shape, (1, H, 1, H))
    self.assertEqual(shapes["path_loss"].shape, (2,))

  def test_with_mlps_there_are_no_paths(self):
    params = {"w_in": jnp.zeros((2, 8, 5))}
    with self.assertRaisesRegex(ValueError, "d_mlp=0, got d_mlp=5"):
      circuits.path_logits(params, "none", None)


if __name__ == "__main__":
  absltest.main()
