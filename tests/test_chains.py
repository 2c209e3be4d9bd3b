"""Markov chain tasks, and the losses of in-context strategies."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from scipy import stats

from induction_jax import tasks
from induction_jax.config import make_config
from induction_jax.measurements import Inputs, make_draw_batches
from induction_jax.measurements.markov import make_markov
from induction_jax.model import Model
from induction_jax.tasks import markov
from induction_jax.training.state import TrainState
from induction_jax.types import Batch
from tests.tiny import tiny_config

KEY = 5


@functools.cache
def _markov(doubly_stochastic: bool) -> tuple[Batch, np.ndarray]:
  """400 long chains of 3 states, and their transition matrices."""
  kind = dict(dirichlet=1.0, doubly_stochastic=doubly_stochastic)

  def draw(key):
    batch = tasks.sample_markov(key, 400, 3, 150, **kind)
    return batch, tasks.sample_transitions(key, 400, 3, **kind)

  return jax.tree.map(np.asarray, jax.jit(draw)(jax.random.key(KEY)))


@functools.cache
def _triggered(fixed: bool) -> tuple[Batch, tasks.Bigrams]:
  bigrams = tasks.make_bigrams(12, 0.5)
  sample = jax.jit(
    lambda key: tasks.sample_bigram_trigger(
      key, 300, bigrams, 60, triggers=3, fixed=fixed
    )
  )
  batch = jax.tree.map(np.asarray, sample(jax.random.key(KEY)))
  return batch, bigrams


def _paths(batch: Batch) -> np.ndarray:  # [B, T + 1]
  np.testing.assert_array_equal(batch.targets[:, :-1], batch.tokens[:, 1:])
  return np.concatenate([batch.tokens, batch.targets[:, -1:]], axis=1)


class ChainsTest(absltest.TestCase):
  def test_one_hot_rows_determine_the_chain(self):
    successors = np.array([[2, 0, 1], [1, 2, 0]])
    path = markov.sample_paths(
      jax.random.key(0), jnp.eye(3)[successors], jnp.array([0, 2]), 7
    )
    np.testing.assert_array_equal(
      path, [[0, 2, 1, 0, 2, 1, 0], [2, 0, 1, 2, 0, 1, 2]]
    )

  def test_seen_before(self):
    seen = markov.seen_before(jnp.array([[3, 1, 3, 3, 2, 1]]))
    np.testing.assert_array_equal(seen, [[0, 0, 1, 1, 0, 1]])


class MarkovTest(parameterized.TestCase):
  @parameterized.parameters(False, True)
  def test_transitions_follow_the_matrix(self, doubly_stochastic):
    batch, transitions = _markov(doubly_stochastic)
    path = _paths(batch)
    self.assertEqual(batch.tokens.shape, (400, 150))
    self.assertEqual(batch.tokens.dtype, np.int32)
    np.testing.assert_allclose(transitions.sum(axis=2), 1, atol=1e-5)
    # Squared deviations of the counts from their expectation, over their
    # variances and summed over sequences, are chi-squared.
    squares, terms = 0.0, 0
    for sequence, matrix in zip(path, transitions):
      counts = np.zeros((3, 3))
      np.add.at(counts, (sequence[:-1], sequence[1:]), 1)
      expected = counts.sum(axis=1, keepdims=True) * matrix
      tested = expected.min(axis=1) > 5
      squares += np.sum(((counts - expected) ** 2 / expected)[tested])
      terms += 2 * tested.sum()
    self.assertGreater(terms, 600)
    self.assertBetween(stats.chi2.cdf(squares, terms), 1e-4, 1 - 1e-4)

  def test_rows_are_dirichlet_and_first_tokens_uniform(self):
    batch, transitions = _markov(False)
    # An entry of a flat Dirichlet row of three is Beta(1, 2).
    entries = transitions[:, :, 0].ravel()
    self.assertGreater(stats.kstest(entries, stats.beta(1, 2).cdf).pvalue, 1e-3)
    firsts = np.bincount(batch.tokens[:, 0], minlength=3)
    self.assertGreater(stats.chisquare(firsts).pvalue, 1e-3)

  def test_other_concentrations(self):
    transitions = tasks.sample_transitions(
      jax.random.key(1), 100, 3, dirichlet=0.3, doubly_stochastic=False
    )
    entries = np.asarray(transitions)[:, :, 1].ravel()
    law = stats.beta(0.3, 0.6)
    self.assertGreater(stats.kstest(entries, law.cdf).pvalue, 1e-3)

  def test_doubly_stochastic_columns_and_unigrams(self):
    batch, transitions = _markov(True)
    error = np.abs(transitions.sum(axis=1) - 1).max(axis=1)
    self.assertLess(np.median(error), 1e-4)
    self.assertLess(np.mean(error > 0.01), 0.005)
    self.assertGreater(np.std(transitions), 0.15)  # and not all 1 / 3
    # Here unigrams are worse than a uniform guess. With Dirichlet rows they
    # are better.
    for plain, informative in (batch, False), (_markov(False)[0], True):
      predicted = tasks.unigram_predictions(plain.tokens, 3, 1.0)
      self.assertEqual(_loss(predicted, plain) < np.log(3), informative)

  @parameterized.parameters(False, True)
  def test_predictable_where_the_token_came_before(self, doubly_stochastic):
    batch, _ = _markov(doubly_stochastic)
    for tokens, mask in zip(batch.tokens[:50], batch.predictable):
      expected = [token in tokens[:t] for t, token in enumerate(tokens)]
      np.testing.assert_array_equal(mask, expected)


def _loss(predicted: jax.Array, batch: Batch) -> float:
  chosen = np.take_along_axis(
    np.asarray(predicted), np.asarray(batch.targets)[..., None], axis=-1
  )
  return float(-np.mean(np.log(chosen)))


class StrategiesTest(absltest.TestCase):
  def test_against_loops(self):
    tokens = np.random.default_rng(0).integers(0, 4, (3, 12))
    unigram = np.zeros((3, 12, 4))
    bigram = np.zeros((3, 12, 4))
    for b, sequence in enumerate(tokens):
      for t, current in enumerate(sequence):
        for token in sequence[: t + 1]:
          unigram[b, t, token] += 1
        for s in range(t):
          if sequence[s] == current:
            bigram[b, t, sequence[s + 1]] += 1
    for counts, predict in (
      (unigram, tasks.unigram_predictions),
      (bigram, tasks.bigram_predictions),
    ):
      expected = (counts + 0.7) / (counts + 0.7).sum(axis=-1, keepdims=True)
      np.testing.assert_allclose(predict(tokens, 4, 0.7), expected, rtol=1e-6)

  def test_bigrams_are_the_posterior_mean_of_the_row(self):
    # Importance sampling: matrices drawn from the prior, weighted by their
    # likelihood. This uses no formula for Dirichlet distributions.
    tokens = np.array([[0, 1, 0, 1, 1, 0, 2, 0, 1]])
    matrices = np.random.default_rng(1).dirichlet(np.full(3, 0.6), (200_000, 3))
    likelihood = np.prod(matrices[:, tokens[0, :-1], tokens[0, 1:]], axis=1)
    expected = np.average(matrices[:, 1], axis=0, weights=likelihood)
    predicted = tasks.bigram_predictions(tokens, 3, 0.6)[0, -1]
    np.testing.assert_allclose(predicted, expected, atol=0.005)

  def test_order_of_the_losses(self):
    for doubly_stochastic in False, True:
      batch, transitions = _markov(doubly_stochastic)
      chain = tasks.chain_predictions(batch.tokens, jnp.asarray(transitions))
      losses = [
        _loss(chain, batch),
        _loss(markov.bigram_predictions(batch.tokens, 3, 1.0), batch),
        _loss(markov.unigram_predictions(batch.tokens, 3, 1.0), batch),
      ]
      self.assertEqual(losses, sorted(losses))
      self.assertLess(losses[1], np.log(3) - 0.05)


class BigramTriggerTest(parameterized.TestCase):
  @parameterized.parameters(False, True)
  def test_triggers_are_followed_by_their_output(self, fixed):
    batch, bigrams = _triggered(fixed)
    count, outputs = 0, []
    for sequence, mask in zip(_paths(batch), batch.predictable):
      triggers = {}
      for t in np.flatnonzero(mask):
        earlier = [s for s in range(t) if sequence[s] == sequence[t]]
        self.assertNotEmpty(earlier)
        for s in earlier:
          self.assertEqual(sequence[s + 1], sequence[t + 1])
        triggers[sequence[t]] = sequence[t + 1]
        count += 1
      self.assertLessEqual(len(triggers), 3)
      for trigger, output in triggers.items():
        self.assertNotEqual(trigger, output)
        outputs.append((output - trigger) % 12)
        # Every output but the first after its trigger is predictable.
        places = np.flatnonzero(sequence[:-1] == trigger)
        np.testing.assert_array_equal(
          mask[places], [False, *[True] * (len(places) - 1)]
        )
      if fixed:
        self.assertContainsSubset(
          triggers, tasks.fixed_triggers(bigrams, 3).tolist()
        )
    self.assertGreater(count, 1000)
    # Uniform over the eleven other tokens.
    counts = np.bincount(outputs, minlength=12)[1:]
    self.assertGreater(stats.chisquare(counts).pvalue, 1e-3)

  def test_the_rest_follows_the_table(self):
    batch, bigrams = _triggered(True)
    others = ~np.isin(batch.tokens, tasks.fixed_triggers(bigrams, 3))
    counts = np.zeros((12, 12))
    np.add.at(counts, (batch.tokens[others], batch.targets[others]), 1)
    totals = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    shares = counts / totals
    # Five standard deviations of a binomial, and the rounding of the table.
    bound = 5 * np.sqrt(bigrams.table / totals)
    tested = totals[:, 0] > 300
    self.assertGreater(tested.sum(), 5)
    error = np.abs(shares - bigrams.table)
    self.assertTrue((error <= bound + 1e-3)[tested].all())
    firsts = np.bincount(batch.tokens[:, 0], minlength=12)
    expected = 300 * bigrams.marginal
    self.assertLess(np.abs(firsts - expected).max(), 5 * 300**0.5 / 2)
    self.assertGreater(np.corrcoef(firsts, expected)[0, 1], 0.9)

  def test_drawn_triggers_follow_the_stationary_distribution(self):
    batch, bigrams = _triggered(False)
    triggers = [
      token
      for sequence, mask in zip(batch.tokens, batch.predictable)
      for token in set(sequence[mask].tolist())
    ]
    counts = np.bincount(triggers, minlength=12)
    self.assertGreater(np.corrcoef(counts, bigrams.marginal)[0, 1], 0.8)
    self.assertGreater(np.count_nonzero(counts), 9)

  def test_table(self):
    bigrams = tasks.make_bigrams(20, 0.05)
    np.testing.assert_allclose(bigrams.table.sum(axis=1), 1)
    np.testing.assert_allclose(
      bigrams.marginal @ bigrams.table, bigrams.marginal, atol=1e-9
    )
    again = tasks.make_bigrams(20, 0.05)
    np.testing.assert_array_equal(again.table, bigrams.table)
    triggers = tasks.fixed_triggers(bigrams, 4)
    self.assertLess(
      np.delete(bigrams.marginal, triggers).max(),
      bigrams.marginal[triggers].min(),
    )


class MarkovMeasurementTest(parameterized.TestCase):
  @parameterized.parameters(False, True)
  def test_a_network_that_follows_bigrams(self, doubly_stochastic):
    values = tiny_config(
      task__name="markov",
      task__vocab_size=5,
      task__seq_length=40,
      task__doubly_stochastic=doubly_stochastic,
      behaviour__batch_size=64,
    )
    config = make_config(values.to_dict())

    def apply(params, tokens):  # logits are free up to a constant
      return jnp.log(tasks.bigram_predictions(tokens, 5, 1.0)) + params, None

    measurement = make_markov(config, Model(None, apply, None), None)
    self.assertEqual(measurement.interval, 1)
    draw = make_draw_batches(config)

    def measure(key):
      state = TrainState(jnp.zeros((), int), jnp.float32(3), (), key)
      inputs = Inputs(state, draw(key), {}, {})
      return measurement.measure(inputs) | measurement.nulls(inputs)

    found = jax.tree.map(float, jax.jit(measure)(jax.random.key(2)))
    self.assertAlmostEqual(found["markov_loss"], found["bigram_loss"], places=5)
    self.assertAlmostEqual(found["kl_bigram"], 0, places=5)
    self.assertAlmostEqual(found["markov_loss_null"], np.log(5), places=5)
    self.assertAlmostEqual(found["kl_uniform_null"], 0, places=5)
    self.assertGreater(found["kl_uniform"], 0.02)
    self.assertGreater(found["kl_unigram"], 0.02)
    # Smoothed unigrams lie between the paper's unigrams and uniform.
    self.assertLess(
      found["smoothed_unigram_loss"],
      min(found["unigram_loss"], found["markov_loss_null"]) + 1e-3,
    )
    # With the matrices of another batch the loss would be far above.
    self.assertLess(found["chain_loss"], found["bigram_loss"] - 0.05)
    self.assertEqual("bayes_loss" in found, not doubly_stochastic)
    if not doubly_stochastic:
      self.assertEqual(found["bayes_loss"], found["bigram_loss"])
    declared = {variable.name for variable in measurement.variables}
    self.assertContainsSubset(found, declared)


if __name__ == "__main__":
  absltest.main()
