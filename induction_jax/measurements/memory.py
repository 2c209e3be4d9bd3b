"""The memories of Bietti et al. (2023), on the bigram_trigger task."""

import jax.numpy as jnp
import numpy as np

from induction_jax import circuits, tasks
from induction_jax.config import Config
from induction_jax.measurements.measurement import Inputs, Measurement
from induction_jax.types import Array, PyTree, Variable

PER_HEAD = ("step", "layer", "head")
PER_PAIR = (*PER_HEAD, "writer_layer", "writer_head")
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
  """Recall of the three memories of an induction head, for every head.

  W_K1 needs a vector for each position and is left out where positions are
  rotary; W_K2 needs two layers. W_K2 is asked for the triggers where these are
  fixed, and else for all tokens.
  """
  task, model = config.task, config.model
  tokens = _tokens_to_find(config)

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
      # Shortformer positions are added behind the norm, learned ones before.
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


def _tokens_to_find(config: Config) -> np.ndarray:
  """Those that W_K2 is asked for: the triggers, or all that may be one."""
  task = config.task
  if task.name == "bigram_trigger" and task.fixed_triggers:
    bigrams = tasks.make_bigrams(task.vocab_size, task.dirichlet)
    return tasks.fixed_triggers(bigrams, task.triggers)
  return np.arange(task.vocab_size)
