"""Interventions: clamped, frozen and projected as the config says, exactly."""

import functools
import importlib
import tempfile
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import absltest, parameterized
from jax.flatten_util import ravel_pytree

from induction_jax import spectra
from induction_jax.config import Config, ConfigError, make_config
from induction_jax.interventions import clamp_heads
from induction_jax.interventions.clamp import LEAST_MASS, no_previous_token
from induction_jax.interventions.names import choose
from induction_jax.interventions.updates import (
  freeze,
  frozen_mask,
  inside,
  project,
)
from induction_jax.measurements import make_curvature, make_draw_batches
from induction_jax.measurements.partition import partition_by_circuit
from induction_jax.model import NO_EDITS, Edits, make_model
from induction_jax.report.behaviour_figures import run_sequence
from induction_jax.run.experiment import (
  Experiment,
  make_experiment,
  make_pure_experiment,
)
from induction_jax.storage import checkpoints
from induction_jax.training.state import TrainState
from induction_jax.types import Batch
from tests.tiny import tiny_config

CONFIGS = (
  "smeared_keys",
  "clamp_previous_token",
  "forbid_previous_token",
  "freeze_first_qk",
  "project_off",
  "project_onto",
)
# Heads of the tiny network, [L, H] = [2, 2].
TOKENS = np.array([[1, 2, 3, 1, 2, 5, 1], [4, 4, 0, 5, 0, 3, 2]], np.int32)


def _config(**overrides: object) -> Config:
  """The tiny run, with `intervention__leaf` and other leaves set."""
  return make_config(tiny_config(**overrides).to_dict())


@functools.cache
def _parts() -> tuple:
  """The tiny config, its model, and parameters."""
  config = _config()
  model = make_model(config.model, config.task.vocab_size, 16)
  return config, model, jax.jit(model.init)(jax.random.key(0))


def _edits(clamps: str, more: Edits = NO_EDITS) -> Edits:
  """The edits that a clamped model makes of its pattern and output."""
  config, model, _ = _parts()
  seen = model._replace(apply=lambda params, tokens, edits, _: edits)
  return clamp_heads(seen, clamps, config.model).apply({}, TOKENS, more)


def _random_pattern() -> np.ndarray:  # [B, H, T, T]
  mass = np.random.default_rng(0).uniform(0.1, 1, (2, 2, 7, 7)).astype("f")
  mass = np.tril(mass)
  return mass / mass.sum(-1, keepdims=True)


def _previous_token(tokens: np.ndarray) -> np.ndarray:
  pattern = np.zeros((len(tokens), len(tokens)))
  for t in range(len(tokens)):
    pattern[t, max(t - 1, 0)] = 1
  return pattern


def _induction(tokens: np.ndarray) -> np.ndarray:
  pattern = np.zeros((len(tokens), len(tokens)))
  for t in range(len(tokens)):
    found = [s for s in range(1, t + 1) if tokens[s - 1] == tokens[t]]
    for s in found or [t]:
      pattern[t, s] = 1 / len(found or [t])
  return pattern


def _without_previous(pattern: np.ndarray) -> np.ndarray:
  rest = pattern.copy()
  for t in range(1, len(rest)):
    rest[t, t - 1] = 0
    rest[t] /= rest[t].sum()
  return rest


class NamesTest(parameterized.TestCase):
  @parameterized.parameters("{}.{}", "L{}H{}")
  def test_heads_in_either_form(self, form):
    known = [f"qk {form}".format(i, j) for i in (0, 1) for j in (1, 12)]
    for wanted, chosen in (
      ("qk L0H1", known[:1]),
      ("qk 0.1", known[:1]),
      ("qk 1.12", known[3:]),
      ("qk L1H*", known[2:]),
      ("qk 1.*", known[2:]),
      ("qk L*H12", known[1::2]),
      ("* *.12", known[1::2]),
      ("q*", known),
    ):
      self.assertEqual(choose("leaf", wanted, known), chosen)


class ClampTest(parameterized.TestCase):
  def test_patterns_equal_loops(self):
    free = _random_pattern()
    edits = _edits(
      "previous_token L0H0, no_previous_token L0H1, induction L1H0, "
      "no_other_token L1H1"
    )
    self.assertIsNone(edits.output)
    clamped = [np.asarray(edits.pattern(i, free, TOKENS)) for i in (0, 1)]
    for b, tokens in enumerate(TOKENS):
      np.testing.assert_array_equal(clamped[0][b, 0], _previous_token(tokens))
      np.testing.assert_allclose(
        clamped[0][b, 1], _without_previous(free[b, 1]), atol=1e-6
      )
      np.testing.assert_allclose(clamped[1][b, 0], _induction(tokens))
      np.testing.assert_array_equal(clamped[1][b, 1], np.eye(7))

  def test_outputs(self):
    edits = _edits("zero L0H1, mean L0H0")
    self.assertIsNone(edits.pattern)
    free = np.random.default_rng(0).normal(size=(3, 2, 7, 8)).astype("f")
    clamped = edits.output(0, free)
    np.testing.assert_array_equal(clamped[:, 1], 0)
    mean = np.mean(free[:, 0], axis=0)
    for b in range(3):
      np.testing.assert_allclose(clamped[b, 0], mean, atol=1e-6)
    np.testing.assert_array_equal(edits.output(1, free), free)

  def test_what_is_trained_is_clamped(self):
    config, model, params = _parts()
    for text in ("zero L1H0", "previous_token L0H1"):
      clamped = clamp_heads(model, text, config.model)
      got = jax.jit(clamped.predict)(params, TOKENS)
      expected = jax.jit(clamped.apply)(params, TOKENS)[0]
      free = jax.jit(model.predict)(params, TOKENS)
      np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
      self.assertGreater(float(jnp.abs(got - free).max()), 1e-3)

  def test_a_mean_over_sequences_needs_them_all(self):
    clamp = "zero 0.1, mean 0.0"
    with self.assertRaisesRegex(ConfigError, "must be spectra.*4, got 2"):
      make_pure_experiment(
        make_config(tiny_config(intervention__clamp=clamp).to_dict())
      )
    config, model, params = _parts()
    model = clamp_heads(model, clamp, config.model)
    batch = Batch(*map(jnp.asarray, (TOKENS, TOKENS, TOKENS > 0)))
    shown = run_sequence(model, params, batch).attention.values
    patterns = jax.jit(lambda x: model.apply(params, x)[1].pattern)
    whole, alone = patterns(TOKENS), patterns(TOKENS[:1])
    np.testing.assert_allclose(shown, whole[:, 0], atol=1e-5)
    # The company counts.
    apart = np.abs(alone[1, 0] - shown[1])
    self.assertGreater(np.max(apart), 1e-3)

  def test_stars_and_order(self):
    free, itself = _random_pattern(), np.eye(7)
    layer = _edits("no_other_token L1H*").pattern
    np.testing.assert_array_equal(layer(0, free, TOKENS), free)
    np.testing.assert_array_equal(layer(1, free, TOKENS)[1, 1], itself)
    last = _edits("no_other_token *, previous_token *.0").pattern
    for i in (0, 1):
      clamped = last(i, free, TOKENS)
      np.testing.assert_array_equal(clamped[0, 1], itself)
      np.testing.assert_array_equal(clamped[0, 0], _previous_token(TOKENS[0]))

  def test_edits_of_a_caller_come_after(self):
    more = Edits(lambda layer, pattern, tokens: pattern / 2, None)
    both = _edits("previous_token 0.0, zero 0.0", more)
    clamped = both.pattern(0, _random_pattern(), TOKENS)
    np.testing.assert_array_equal(clamped[0, 0], _previous_token(TOKENS[0]) / 2)
    np.testing.assert_array_equal(
      both.output(0, jnp.ones((2, 2, 7, 8)))[:, 0], 0
    )
    self.assertIs(_edits("zero 0.0", more).pattern, more.pattern)

  def test_no_clamp_is_the_model_itself(self):
    config, model, _ = _parts()
    self.assertIs(clamp_heads(model, " ", config.model), model)

  def test_rows_with_nothing_left(self):
    pattern = jnp.array([[1.0, 0, 0], [1.0, 0, 0], [0.5, 0.5, 0]])
    kept = no_previous_token(pattern[None, None], None)[0, 0]
    np.testing.assert_array_equal(kept, [[1, 0, 0], [0, 1, 0], [1, 0, 0]])
    # Next to nothing: derivatives stay finite on both sides of the threshold.
    start = jnp.array([[1.0, 0.0]])

    def entry(scores):
      pattern = jnp.concatenate([start, jax.nn.softmax(scores)[None]])
      return no_previous_token(pattern[None, None], None)[0, 0, 1, 1]

    second = jax.jit(lambda x: (entry(x), jax.jacfwd(jax.grad(entry))(x)))
    # And at nothing at all, which -200 underflows to.
    for score in (*np.log([2 * LEAST_MASS, 0.5 * LEAST_MASS]), -200.0):
      value, derivative = second(jnp.array([0.0, score]))
      self.assertAlmostEqual(float(value), 1, places=6)
      self.assertTrue(bool(jnp.isfinite(derivative).all()))

  def test_gradients_of_what_is_clamped_are_zero(self):
    """In the model of a whole run, as its config has it."""
    clamps = "previous_token L0H0, induction L1H1, zero L1H0, mean L0H1"
    config = _config(intervention__clamp=clamps, spectra__micro_batch_size=4)
    model = make_experiment(config).model

    @jax.jit
    def gradient(params):
      return jax.grad(lambda p: jnp.sum(jnp.sin(model.apply(p, TOKENS)[0])))(
        params
      )

    grad = gradient(_parts()[2])
    for name in ("w_q", "w_k"):
      sizes = np.abs(np.asarray(grad[name])).max((2, 3))  # [L, H]
      np.testing.assert_array_equal(sizes, 0)
    for name in ("w_v", "w_o"):
      sizes = np.abs(np.asarray(grad[name])).max((2, 3))
      np.testing.assert_array_equal(
        sizes > 1e-4, [[True, False], [False, True]]
      )

  @parameterized.parameters(
    ("previous_tokens 0.0", "got 'previous_tokens'; did you mean previous_tok"),
    ("previous_token 0.7", "L0H0, L0H1, L1H0, L1H1, got '0.7'"),
    ("previous_token L0H7", "got 'L0H7'; did you mean L0H1?"),
    ("previous_token", "`kind head`, such as previous_token L0H0, got 'p"),
    ("zero 0.0,", "got ''"),
    ("no_* 0.0", "got 'no_*'"),
  )
  def test_refuses(self, clamps, message):
    config, model, _ = _parts()
    with self.assertRaises(ConfigError) as caught:
      clamp_heads(model, clamps, config.model)
    self.assertStartsWith(str(caught.exception), "intervention.clamp must ")
    self.assertIn(message, str(caught.exception))


class FreezeTest(parameterized.TestCase):
  @parameterized.parameters(
    "w_e, qk L0H1, ov L1H*",
    "w_e, qk 0.1, ov 1.*",  # heads as in clamps
  )
  def test_mask(self, names):
    params = _parts()[2]
    partition = partition_by_circuit(params)
    mask = frozen_mask(names, params, partition)
    expected = jax.tree.map(lambda x: np.zeros(x.shape, bool), params)
    expected["w_e"][:] = True
    for name in ("w_q", "w_k"):
      expected[name][0, 1] = True
    for name in ("w_v", "w_o"):
      expected[name][1] = True
    chex.assert_trees_all_equal(mask, expected)
    nothing = frozen_mask("", params, partition)
    self.assertFalse(any(x.any() for x in nothing.values()))

  @parameterized.parameters(
    ("w_qq", "did you mean w_q?"),
    ("qk L0H2", "did you mean qk L0H"),
    ("qk 0.2", "did you mean qk L0H"),
    ("embeding", "did you mean embedding?"),
    ("mlp", "got 'mlp'"),
  )
  def test_refuses(self, names, message):
    params = _parts()[2]
    with self.assertRaises(ConfigError) as caught:
      frozen_mask(names, params, partition_by_circuit(params))
    self.assertStartsWith(str(caught.exception), "intervention.freeze must ")
    self.assertIn(message, str(caught.exception))

  def test_what_is_not_finite_is_frozen_too(self):
    mask = {"x": np.array([True, False])}
    updates = {"x": jnp.array([jnp.nan, 2.0])}
    frozen, _ = freeze(mask).update(updates, optax.EmptyState())
    np.testing.assert_array_equal(frozen["x"], [0, 2])


# Freezing and projecting at once: they meet, and it is one program to compile.
CHANGES = dict(
  intervention__freeze="w_e, qk L1H0, norms",
  intervention__project="off",
  intervention__project_top_k=3,
  intervention__project_interval=3,
  optim__weight_decay=0.5,
  optim__clip_norm=0.1,
  spectra__max_order=32,
  spectra__tolerance=1e-4,
  spectra__micro_batch_size=4,
)


@functools.cache
def _experiment() -> Experiment:
  return make_experiment(_config(**CHANGES))


def _bits(state: TrainState) -> list[bytes]:
  plain = state._replace(key=jax.random.key_data(state.key))
  return [np.asarray(x).tobytes() for x in jax.tree.leaves(plain)]


def _steps(*counts: int) -> list[TrainState]:
  """The states before, between and after chunks of so many steps."""
  experiment = _experiment()
  states = [experiment.init()]
  for count in counts:
    # A chunk's argument is donated.
    last = jax.tree.map(jnp.copy, states[-1])
    states.append(experiment.train_chunk(last, jnp.int32(count))[0])
  return states


@pytest.mark.slow
class RunTest(absltest.TestCase):
  def test_frozen_parameters_keep_their_bits(self):
    first, last = _steps(5)
    mask = _mask(first)
    self.assertEqual(
      {k: int(v.sum()) for k, v in mask.items() if v.any()},
      {
        "w_e": 88,
        "w_q": 32,
        "w_k": 32,
        "norm_scale": 16,
        "final_norm_scale": 8,
      },
    )
    for name, frozen in mask.items():
      before, after = (np.asarray(s.params[name]) for s in (first, last))
      np.testing.assert_array_equal(before == after, frozen, name)

  def test_updates_are_off_the_top_of_the_dense_hessian(self):
    states = _steps(3, 1, 1)  # refreshed before updates 0 and 3
    vectors = _vectors(states[2])  # [k, P]
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(3), atol=1e-5)
    np.testing.assert_array_equal(_vectors(states[3]), vectors)
    exact = _dense_eigenvectors(states[1])
    cosines = np.linalg.svd(vectors @ exact.T, compute_uv=False)
    np.testing.assert_allclose(cosines, 1, atol=1e-4)
    flat = [np.asarray(ravel_pytree(s.params)[0]) for s in states]
    for before, after in ((1, 2), (2, 3)):
      update = flat[after] - flat[before]
      within = np.linalg.norm(vectors @ update)
      self.assertLess(within, 1e-4 * np.linalg.norm(update))

  def test_bits_depend_neither_on_the_cut_nor_on_a_restart(self):
    *_, whole = _steps(7)
    *_, part, cut = _steps(3, 4)
    self.assertEqual(_bits(cut), _bits(whole))
    *_, single = _steps(1, 1, 5)
    self.assertEqual(_bits(single), _bits(whole))
    with tempfile.TemporaryDirectory() as directory:
      checkpoints.save(Path(directory), 3, part)
      resumed = checkpoints.restore(Path(directory), 3, part)
    resumed, _ = _experiment().train_chunk(resumed, jnp.int32(4))
    self.assertEqual(_bits(resumed), _bits(whole))

  def test_nothing_asked_for_changes_no_bit_of_the_state(self):
    experiment = make_experiment(_config())
    plain = optax.adamw(optax.constant_schedule(1e-3))
    state = jax.eval_shape(experiment.init)
    chex.assert_trees_all_equal_structs(
      state.opt_state, jax.eval_shape(plain.init, state.params)
    )

  def test_more_eigenvectors_than_free_parameters(self):
    with self.assertRaisesRegex(ConfigError, "that are not frozen, 0, got 10"):
      make_experiment(
        _config(
          intervention__project="off",
          intervention__freeze="*",
          spectra__max_order=20,
        )
      )


def _mask(state: TrainState) -> dict[str, np.ndarray]:
  partition = partition_by_circuit(state.params)
  return frozen_mask(CHANGES["intervention__freeze"], state.params, partition)


def _vectors(state: TrainState) -> np.ndarray:  # [k, P]
  vectors = optax.tree.get(state.opt_state, "vectors")
  return np.asarray(jax.vmap(lambda v: ravel_pytree(v)[0])(vectors))


def _dense_eigenvectors(state: TrainState) -> np.ndarray:
  """The three largest, [3, P], of the Hessian of what is not frozen."""
  experiment = _experiment()
  curvature = make_curvature(experiment.config, experiment.model)

  @jax.jit
  def matrix(params, key):
    # Within, so that the batches not used here are not compiled.
    batches = make_draw_batches(experiment.config)(key)
    return spectra.dense(curvature.hessian_at(params, batches), params)

  dense = np.array(matrix(state.params, state.key))
  frozen = np.asarray(ravel_pytree(_mask(state))[0])
  dense[frozen] = 0
  dense[:, frozen] = 0
  return np.linalg.eigh((dense + dense.T) / 2)[1].T[::-1][:3]


class ProjectTest(absltest.TestCase):
  def test_share(self):
    # Of a diagonal Hessian: the first two of four directions.
    vectors = {"x": jnp.eye(4)[:2]}
    pairs = spectra.Eigenpairs(
      values=jnp.array([2.0, 1.0]),
      vectors=vectors,
      residuals=jnp.zeros(2),
      converged=jnp.array([True, False]),
    )
    params = {"x": jnp.zeros(4)}
    update = {"x": jnp.array([3.0, 4.0, 5.0, -5.0])}
    for onto, expected in ((True, [3, 4, 0, 0]), (False, [0, 0, 5, -5])):
      tx = project(lambda params, key: pairs, 2, 1, onto=onto)
      kept, state = tx.update(
        update, tx.init(params), params, key=jax.random.key(0)
      )
      np.testing.assert_allclose(kept["x"], expected)
      self.assertAlmostEqual(float(state.share), 1 / 3, places=6)
      self.assertEqual(float(state.converged), 0.5)
    np.testing.assert_allclose(inside(vectors, update)["x"], [3, 4, 0, 0])


class ConfigsTest(parameterized.TestCase):
  @parameterized.parameters(*CONFIGS)
  def test_steps_are_traced(self, name):
    """At the tiny size, with the config's own network and interventions."""
    config = importlib.import_module(f"configs.{name}").get_config()
    changes = {
      f"{section}__{leaf}": config[section][leaf]
      for section, leaf in (
        ("model", "n_layers"),
        ("model", "smeared_keys"),
        *(("intervention", leaf) for leaf in config.intervention),
      )
    }
    experiment = make_experiment(_config(**changes))
    state = jax.eval_shape(experiment.init)
    after, _ = jax.eval_shape(experiment.train_chunk, state, jnp.int32(2))
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)


if __name__ == "__main__":
  absltest.main()
