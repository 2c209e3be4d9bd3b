"""Data-generating processes: pure samplers `sample(key) -> Batch`."""

from induction_jax.config import TaskConfig
from induction_jax.tasks.bigram_trigger import (
  Bigrams,
  fixed_triggers,
  make_bigrams,
  sample_bigram_trigger,
)
from induction_jax.tasks.fixed_offset import sample_fixed_offset
from induction_jax.tasks.markov import (
  bigram_predictions,
  chain_predictions,
  sample_markov,
  sample_transitions,
  unigram_predictions,
)
from induction_jax.tasks.repeats import sample_repeats
from induction_jax.types import Sampler

__all__ = [
  "Bigrams",
  "bigram_predictions",
  "chain_predictions",
  "fixed_triggers",
  "make_bigrams",
  "make_induction_sampler",
  "make_probe_sampler",
  "make_sampler",
  "sample_bigram_trigger",
  "sample_fixed_offset",
  "sample_markov",
  "sample_repeats",
  "sample_transitions",
  "unigram_predictions",
]


def make_sampler(config: TaskConfig, batch_size: int) -> Sampler:
  """The run's own task: a pure function of a key."""
  if config.name == "fixed_offset":
    return lambda key: sample_fixed_offset(
      key, batch_size, config.vocab_size, config.seq_length
    )
  if config.name == "markov":
    return lambda key: sample_markov(
      key,
      batch_size,
      config.vocab_size,
      config.seq_length,
      dirichlet=config.dirichlet,
      doubly_stochastic=config.doubly_stochastic,
    )
  if config.name == "bigram_trigger":
    bigrams = make_bigrams(config.vocab_size, config.dirichlet)
    return lambda key: sample_bigram_trigger(
      key,
      batch_size,
      bigrams,
      config.seq_length,
      triggers=config.triggers,
      fixed=config.fixed_triggers,
    )
  return make_induction_sampler(config, batch_size)


def make_induction_sampler(config: TaskConfig, batch_size: int) -> Sampler:
  """`repeats` with the run's sizes: what an induction head is judged on.

  A positional shortcut cannot solve it, whatever the run was trained on.
  """
  return lambda key: sample_repeats(
    key,
    batch_size,
    config.vocab_size,
    config.seq_length,
    pattern=(config.pattern_min, config.pattern_max),
    gap=(config.gap_min, config.gap_max),
  )


def make_probe_sampler(config: TaskConfig, batch_size: int) -> Sampler:
  """Random distinct tokens repeated back to back (Olsson et al. 2022).

  The period is drawn anew for every sequence, between a quarter and a half of
  the sequence where the vocabulary allows, so that attending a fixed distance
  back does not pass for prefix matching. (With three tokens all periods are
  two, and it would.)
  """
  longest = max(2, min(config.seq_length // 2, config.vocab_size - 1))
  return lambda key: sample_repeats(
    key,
    batch_size,
    config.vocab_size,
    config.seq_length,
    pattern=(max(2, longest // 2), longest),
    gap=(0, 0),
  )
