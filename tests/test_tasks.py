"""The samplers, against oracles that see nothing but the tokens."""

import functools
import inspect
import textwrap

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from induction_jax import tasks
from induction_jax.config import (
  TASK_NAMES,
  ConfigError,
  TaskConfig,
  make_config,
)
from induction_jax.run.experiment import make_experiment
from induction_jax.types import Batch
from tests.tiny import NO_CHAINS, tiny_config

# So many tokens that a filler token practically never returns: whatever does
# return in a sequence is the pattern.
MANY = 10_000


@functools.cache
def _draw(
  pattern: tuple[int, int],
  gap: tuple[int, int],
  vocab_size: int,
  seq_length: int,
  batch_size: int = 64,
  seed: int = 0,
) -> Batch:
  sample = jax.jit(
    lambda key: tasks.sample_repeats(
      key, batch_size, vocab_size, seq_length, pattern=pattern, gap=gap
    )
  )
  return jax.tree.map(np.asarray, sample(jax.random.key(seed)))


def _sequences(batch: Batch) -> list[list[int]]:
  """All T + 1 tokens of each sequence."""
  return [
    [*tokens.tolist(), int(targets[-1])]
    for tokens, targets in zip(batch.tokens, batch.targets)
  ]


def _earlier(sequence: list[int], t: int) -> list[int]:
  return [s for s in range(t) if sequence[s] == sequence[t]]


def _pattern(sequence: list[int]) -> list[int]:
  """The tokens that return, in the order of the pattern.

  Needs at least two whole occurrences, a gap and no returning filler: the
  pattern is the longest run of returning tokens.
  """
  runs, run = [], []
  for token in sequence:
    if sequence.count(token) > 1:
      run.append(token)
    else:
      runs.append(run)
      run = []
  return max([*runs, run], key=len)


class RepeatsTest(parameterized.TestCase):
  @parameterized.parameters(
    # pattern, gap, V, T
    ((4, 12), (0, 8), 50, 64),
    ((2, 5), (0, 3), 6, 24),
    ((3, 3), (0, 0), 9, 20),
    ((2, 2), (0, 0), 3, 4),
    ((2, 6), (1, 4), 7, 5),
    ((4, 8), (0, 16), 9, 17),
  )
  def test_predictable_is_determined(self, pattern, gap, vocab_size, length):
    batch = _draw(pattern, gap, vocab_size, length)
    self.assertEqual(batch.tokens.shape, (64, length))
    self.assertEqual(batch.predictable.dtype, np.bool_)
    self.assertBetween(batch.tokens.min(), 0, vocab_size - 1)
    self.assertBetween(batch.targets.max(), 0, vocab_size - 1)
    np.testing.assert_array_equal(batch.targets[:, :-1], batch.tokens[:, 1:])
    count = 0
    for sequence, mask in zip(_sequences(batch), batch.predictable):
      for t in np.flatnonzero(mask):
        earlier = _earlier(sequence, t)
        self.assertNotEmpty(earlier)
        for s in earlier:
          self.assertEqual(sequence[s + 1], sequence[t + 1])
        count += 1
    self.assertGreater(count, 5)

  @parameterized.parameters(((4, 9), (1, 5), 60), ((2, 2), (1, 1), 20))
  def test_predictable_is_all_that_is_determined(self, pattern, gap, length):
    # With a filler in every gap and fillers that never return, what follows a
    # pattern's last token never repeats, so the mask is in the tokens alone.
    batch = _draw(pattern, gap, MANY, length)
    expected = [
      [
        any(sequence[s + 1] == sequence[t + 1] for s in _earlier(sequence, t))
        for t in range(length)
      ]
      for sequence in _sequences(batch)
    ]
    np.testing.assert_array_equal(batch.predictable, np.array(expected))
    self.assertBetween(batch.predictable.mean(), 0.1, 0.9)

  @parameterized.parameters(((4, 7), (0, 0)), ((3, 3), (0, 2)))
  def test_first_token_of_an_occurrence_never_counts(self, pattern, gap):
    # Where an occurrence follows at once, the first token is determined too
    # (always, without gaps), and yet does not count: one token a sequence, the
    # pattern's last, is never predictable, and nothing else is left out.
    batch = _draw(pattern, gap, MANY, 50)
    for sequence, mask in zip(_sequences(batch), batch.predictable):
      uncounted = {
        sequence[t] for t in range(50) if _earlier(sequence, t) and not mask[t]
      }
      self.assertLen(uncounted, 1)
      self.assertNoCommonElements(
        uncounted, {sequence[t] for t in np.flatnonzero(mask)}
      )

  @parameterized.parameters(16, 50, 64, 65, 50_000)
  def test_a_pattern_is_a_random_draw(self, vocab_size):
    batch = _draw((8, 8), (0, 0), vocab_size, 7, batch_size=4096)
    patterns = np.array(_sequences(batch))  # from any place in it on
    self.assertEqual(patterns.shape, (4096, 8))
    for row in patterns[:64]:
      self.assertLen(set(row), 8)
    # Five standard deviations; steps within a sequence are not independent,
    # but an ascent makes the next one less likely.
    ascents = np.diff(patterns, axis=1) > 0
    self.assertLess(abs(ascents.mean() - 0.5), 2.5 / ascents.size**0.5)
    lower = patterns < vocab_size / 2
    expected = -(-vocab_size // 2) / vocab_size
    self.assertLess(abs(lower.mean() - expected), 2.5 / lower.size**0.5)
    # Every step is as likely, but for one that would stay.
    steps = np.diff(patterns, axis=1) % vocab_size
    few = np.bincount(steps.ravel() * 8 // vocab_size, minlength=8)
    all_steps = np.arange(1, vocab_size) * 8 // vocab_size
    expected = np.bincount(all_steps, minlength=8) / (vocab_size - 1)
    self.assertLess(np.abs(few / steps.size - expected).max(), 0.015)

  def test_sizes_cover_their_ranges(self):
    # With this seed no filler comes back by chance and passes for a pattern.
    batch = _draw((4, 7), (1, 4), MANY, 60, batch_size=128, seed=7)
    lengths, gaps = [], []
    for sequence in _sequences(batch):
      pattern = _pattern(sequence)
      self.assertLen(set(pattern), len(pattern))
      lengths.append(len(pattern))
      starts = [t for t, token in enumerate(sequence) if token == pattern[0]]
      for a, b in zip(starts, starts[1:]):
        self.assertEqual(sequence[a : a + len(pattern)], pattern)
        gaps.append(b - a - len(pattern))
    for drawn, low, high in ((lengths, 4, 7), (gaps, 1, 4)):
      values, counts = np.unique(drawn, return_counts=True)
      np.testing.assert_array_equal(values, np.arange(low, high + 1))
      expected = len(drawn) / 4
      # Five standard deviations of a binomial.
      self.assertLess(np.abs(counts - expected).max(), 5 * expected**0.5)

  def test_offset_is_uniform(self):
    batch = _draw((4, 4), (2, 2), MANY, 20, batch_size=360)
    phases = []
    for sequence in _sequences(batch):
      # With period 6 and 21 tokens, the first token of the pattern is the one
      # whose next three return with it, after two that do not.
      first = _pattern(sequence)[0]
      phases.append(sequence.index(first) % 6)
    values, counts = np.unique(phases, return_counts=True)
    np.testing.assert_array_equal(values, np.arange(6))
    self.assertLess(np.abs(counts - 60).max(), 5 * 60**0.5)

  def test_filler_is_uniform_outside_the_pattern(self):
    batch = _draw((2, 2), (6, 6), 10, 24, batch_size=500)
    counts = np.bincount(batch.tokens.ravel(), minlength=10)
    self.assertLess(np.abs(counts / counts.sum() - 0.1).max(), 0.01)
    for sequence, mask in zip(_sequences(batch), batch.predictable):
      t = np.flatnonzero(mask)[0]
      first, second = sequence[t], sequence[t + 1]
      # Pattern tokens stand at their places, 8 apart, and nowhere else.
      self.assertEqual(
        [s % 8 for s, token in enumerate(sequence) if token == first],
        [t % 8] * sequence.count(first),
      )
      self.assertEqual(
        {s % 8 for s, token in enumerate(sequence) if token == second},
        {(t + 1) % 8},
      )


class PurityTest(chex.TestCase):
  @chex.variants(with_jit=True, without_jit=True)
  @parameterized.parameters("repeats", "fixed_offset")
  def test_same_key_same_batch(self, name):
    config = TaskConfig(name, 20, 24, 3, 6, 0, 4, *NO_CHAINS)
    sample = self.variant(tasks.make_sampler(config, 8))
    a, b, c = (sample(jax.random.key(seed)) for seed in (7, 7, 8))
    chex.assert_trees_all_equal(a, b)
    self.assertGreater(np.mean(np.asarray(a.tokens != c.tokens)), 0.5)
    # Sequences of a batch differ as well.
    self.assertGreater(np.mean(np.asarray(a.tokens[0] != a.tokens[1])), 0.5)


class FixedOffsetTest(parameterized.TestCase):
  @parameterized.parameters(4, 10)
  def test_exact(self, length):
    batch = tasks.sample_fixed_offset(jax.random.key(0), 40, 5, length)
    batch = jax.tree.map(np.asarray, batch)
    period = length // 2
    for sequence, mask in zip(_sequences(batch), batch.predictable):
      self.assertLen(sequence, length + 1)
      for t in range(length):
        self.assertEqual(bool(mask[t]), t + 1 >= period)
      for t in range(period, length + 1):
        self.assertEqual(sequence[t], sequence[t - period])
    np.testing.assert_array_equal(batch.targets[:, :-1], batch.tokens[:, 1:])
    np.testing.assert_array_equal(np.unique(batch.tokens), np.arange(5))

  def test_run_samples_it(self):
    config = TaskConfig("fixed_offset", 500, 12, 2, 3, 0, 4, *NO_CHAINS)
    batch = tasks.make_sampler(config, 8)(jax.random.key(0))
    np.testing.assert_array_equal(batch.tokens[:, :6], batch.tokens[:, 6:])


class SamplersTest(parameterized.TestCase):
  @parameterized.parameters("repeats", "fixed_offset")
  def test_induction_sampler_is_always_repeats(self, name):
    config = TaskConfig(name, MANY, 40, 3, 5, 1, 4, *NO_CHAINS)
    sample = jax.jit(tasks.make_repeats(config, 32))
    expected = _draw((3, 5), (1, 4), MANY, 40, 32, seed=3)
    chex.assert_trees_all_equal(sample(jax.random.key(3)), expected)

  def test_run_samples_repeats(self):
    config = TaskConfig("repeats", MANY, 40, 3, 5, 1, 4, *NO_CHAINS)
    sample = jax.jit(tasks.make_sampler(config, 32))
    expected = _draw((3, 5), (1, 4), MANY, 40, 32, seed=3)
    chex.assert_trees_all_equal(sample(jax.random.key(3)), expected)

  @parameterized.parameters(
    # V, T, shortest and longest period
    (50, 24, 6, 12),
    (8, 40, 3, 7),
    (3, 20, 2, 2),
  )
  def test_probe_repeats_distinct_tokens(
    self, vocab_size, length, shortest, longest
  ):
    config = TaskConfig(
      "fixed_offset", vocab_size, length, 2, 2, 0, 0, *NO_CHAINS
    )
    sample = jax.jit(tasks.make_back_to_back(config, 128))
    batch = sample(jax.random.key(0))
    batch = jax.tree.map(np.asarray, batch)
    periods = []
    for sequence, mask in zip(_sequences(batch), batch.predictable):
      period = sequence.index(sequence[0], 1)
      periods.append(period)
      self.assertLen(set(sequence[:period]), period)
      for t in range(period, length + 1):
        self.assertEqual(sequence[t], sequence[t - period])
      # All from one period on, but for the place where it starts anew.
      self.assertFalse(mask[:period].any())
      missing = [t for t in range(period, length) if not mask[t]]
      self.assertLen({t % period for t in missing}, min(len(missing), 1))
      self.assertLessEqual(len(missing), -(-(length - period) // period))
    np.testing.assert_array_equal(
      np.unique(periods), np.arange(shortest, longest + 1)
    )


class RegistrationTest(absltest.TestCase):
  """A task from outside the package, in the words of its documentation."""

  def setUp(self):
    super().setUp()
    # The indented example in the docstring of the package.
    lines = inspect.getdoc(tasks).splitlines()
    example = [line for line in lines if line.startswith("  ") or not line]
    scope = {"jax": jax, "jnp": jnp, "Batch": Batch, "register": tasks.register}
    exec(textwrap.dedent("\n".join(example)), scope)
    self.addCleanup(TASK_NAMES.remove, "palindromes")
    self.addCleanup(tasks.TASKS.pop, "palindromes")

  def test_trains_and_measures(self):
    values = tiny_config().to_dict()
    values["task"]["name"] = "palindromes"
    config = make_config(values)
    experiment = make_experiment(config)
    state, metrics = experiment.train_chunk(experiment.init(), jnp.int32(2))
    self.assertEqual(int(metrics.first_bad_step), -1)
    batch = jax.tree.map(np.asarray, experiment.draw(state.key).task)
    for sequence, mask in zip(_sequences(batch), batch.predictable):
      self.assertEqual([t for t in range(16) if mask[t]], list(range(8, 16)))
      for t in range(9, 17):
        self.assertEqual(sequence[t], sequence[17 - t])

  def test_every_name_has_a_task(self):
    self.assertCountEqual(tasks.TASKS, TASK_NAMES)

  def test_names_are_listed(self):
    values = tiny_config().to_dict()
    values["task"]["name"] = "palindrome"
    with self.assertRaisesRegex(
      ConfigError, "bigram_trigger, palindromes, got"
    ):
      make_config(values)


if __name__ == "__main__":
  absltest.main()
