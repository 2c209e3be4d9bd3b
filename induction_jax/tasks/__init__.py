"""Data-generating processes, one file each: pure samplers `key -> Batch`.

A task is a function of the config and the batch size that returns a sampler. To
add one, write it in a file of this folder, declare its settings and its name in
`induction_jax.config.TaskConfig`, and add a line to TASKS. Code outside the
package registers a task before it makes a config with that name:

  def make_palindromes(config, batch_size):
    def sample(key):
      shape = batch_size, (config.seq_length + 2) // 2
      half = jax.random.randint(key, shape, 0, config.vocab_size)
      tokens = jnp.concatenate([half, half[:, ::-1]], axis=1)
      tokens = tokens[:, : config.seq_length + 1]
      mirrored = jnp.arange(config.seq_length) >= shape[1] - 1
      predictable = jnp.tile(mirrored, (batch_size, 1))
      return Batch.from_sequences(tokens, predictable)

    return sample

  register("palindromes", make_palindromes)
"""

from collections.abc import Callable

from induction_jax.config import TASK_NAMES, TaskConfig
from induction_jax.tasks.bigram_trigger import (
  Bigrams,
  fixed_triggers,
  make_bigram_trigger,
  make_bigrams,
  sample_bigram_trigger,
)
from induction_jax.tasks.fixed_offset import (
  make_fixed_offset,
  sample_fixed_offset,
)
from induction_jax.tasks.markov import (
  bigram_predictions,
  chain_predictions,
  make_markov,
  sample_markov,
  sample_transitions,
  unigram_predictions,
)
from induction_jax.tasks.repeats import (
  make_back_to_back,
  make_repeats,
  sample_repeats,
)
from induction_jax.types import Sampler

__all__ = [
  "CHAINS",
  "TASKS",
  "Bigrams",
  "bigram_predictions",
  "chain_predictions",
  "fixed_triggers",
  "make_back_to_back",
  "make_bigrams",
  "make_repeats",
  "make_sampler",
  "register",
  "sample_bigram_trigger",
  "sample_fixed_offset",
  "sample_markov",
  "sample_repeats",
  "sample_transitions",
  "unigram_predictions",
]

MakeSampler = Callable[[TaskConfig, int], Sampler]

TASKS: dict[str, MakeSampler] = {
  "repeats": make_repeats,
  "fixed_offset": make_fixed_offset,
  "markov": make_markov,
  "bigram_trigger": make_bigram_trigger,
}
# Tasks that draw a transition matrix [V, V] for every sequence.
CHAINS = ("markov", "bigram_trigger")


def register(name: str, make: MakeSampler) -> None:
  """Adds a task: its name becomes a value of the setting `task.name`.

  Args:
    name: of the task. A task that has the name already is replaced.
    make: (config, batch size) -> sampler.
  """
  TASKS[name] = make
  if name not in TASK_NAMES:
    TASK_NAMES.append(name)


def make_sampler(config: TaskConfig, batch_size: int) -> Sampler:
  """The sampler of the task that the config names."""
  return TASKS[config.name](config, batch_size)
