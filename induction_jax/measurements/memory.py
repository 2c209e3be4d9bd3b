"""Memory: recall of the associative memories of Bietti et al. (2023)."""

import jax.numpy as jnp
import numpy as np

from induction_jax import circuits, tasks
from induction_jax.config import Config
from induction_jax.measurements.measurement import (
  PER_HEAD,
  PER_PAIR,
  Inputs,
  Measurement,
)
from induction_jax.types import Array, PyTree, Variable

RECALLS = {
  "w_k1_recall": ("W_K1 recall, previous position", PER_HEAD),
  "w_k2_recall": ("W_K2 recall, previous token", PER_PAIR),
  "w_o2_recall": ("W_O2 recall, token written", PER_HEAD),
}
VARIABLES = (
  *(Variable(name, dims, long) for name, (long, dims) in RECALLS.items()),
  *(
    Variable(f"{name}_null", (), f"{long}, random candidate")
    for name, (long, _) in RECALLS.items()
  ),
)


def make_memory(config: Config, *_: PyTree) -> Measurement:
  """Makes the measurement of the three memories of an induction head.

  W_K1 recall needs a vector for each position, so it is not measured with
  rotary positions. W_K2 recall needs two layers. It is measured over the
  trigger tokens if they are fixed, and otherwise over all tokens.
  """
  task, model = config.task, config.model
  tokens = _trigger_tokens(config)

  def nulls(inputs: Inputs) -> dict[str, Array]:
    length = inputs.batches.task.tokens.shape[1]
    any_token = jnp.float32(1 / task.vocab_size)
    values = {"w_o2_recall_null": any_token}
    if model.position != "rotary":
      values["w_k1_recall_null"] = circuits.null_position_recall(length)
    if model.n_layers > 1:
      values["w_k2_recall_null"] = any_token
    return values

  def measure(inputs: Inputs) -> dict[str, Array]:
    params = inputs.state.params
    weights = circuits.fold_norms(params, model.norm)
    values = {"w_o2_recall": circuits.output_recall(weights)}
    if model.position != "rotary":
      # Learned positions pass through the norm, shortformer positions do not.
      reader = (
        weights
        if model.position == "learned"
        else weights._replace(w_q=params["w_q"], w_k=params["w_k"])
      )
      values["w_k1_recall"] = circuits.position_recall(
        params["w_pos"], reader.w_q, reader.w_k
      )
    if model.n_layers > 1:
      values["w_k2_recall"] = circuits.key_recall(weights, tokens)
    return values

  return Measurement(
    name="memory",
    interval=config.behaviour.interval,
    variables=VARIABLES,
    measure=measure,
    nulls=nulls,
  )


def _trigger_tokens(config: Config) -> np.ndarray:
  """The trigger tokens if they are fixed, otherwise the whole vocabulary."""
  task = config.task
  if task.name == "bigram_trigger" and task.fixed_triggers:
    bigrams = tasks.make_bigrams(task.vocab_size, task.dirichlet)
    return tasks.fixed_triggers(bigrams, task.triggers)
  return np.arange(task.vocab_size)
