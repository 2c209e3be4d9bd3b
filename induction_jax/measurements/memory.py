"""The memories of Bietti et al. (2023), on the bigram_trigger task."""

import jax.numpy as jnp
import numpy as np

from induction_jax import circuits, tasks
from induction_jax.config import Config
from induction_jax.measurements.evaluation_batches import HeldOut
from induction_jax.measurements.measurement import Probe
from induction_jax.training.state import TrainState
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


def make_memory_probe(config: Config) -> Probe:
  """Recall of the three memories of an induction head, for every head.

  W_K1 needs a vector for each position and is left out where positions are
  rotary; W_K2 needs two layers. W_K2 is asked for the triggers where these are
  fixed, and else for all tokens.
  """
  task, model = config.task, config.model
  is_measured = task.name == "bigram_trigger"
  tokens = _tokens_to_find(config)

  def constants(_: TrainState, held_out: HeldOut) -> dict[str, Array]:
    length = held_out.task.tokens.shape[1]
    any_token = jnp.float32(1 / task.vocab_size)
    nulls = {"w_o2_recall_null": any_token}
    if model.position != "rotary":
      nulls["w_k1_recall_null"] = circuits.null_position_recall(length)
    if model.n_layers > 1:
      nulls["w_k2_recall_null"] = any_token
    return nulls

  def measure(
    state: TrainState, _: HeldOut, __: PyTree, carry: PyTree
  ) -> tuple[dict[str, Array], PyTree]:
    params = state.params
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
    return values, carry

  return Probe(
    name="memory",
    interval=config.behaviour.interval if is_measured else 0,
    variables=VARIABLES,
    constants=constants,
    measure=measure,
  )


def _tokens_to_find(config: Config) -> np.ndarray:
  """Those that W_K2 is asked for: the triggers, or all that may be one."""
  task = config.task
  if task.name == "bigram_trigger" and task.fixed_triggers:
    bigrams = tasks.make_bigrams(task.vocab_size, task.dirichlet)
    return tasks.fixed_triggers(bigrams, task.triggers)
  return np.arange(task.vocab_size)
