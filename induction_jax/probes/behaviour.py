"""Behaviour: losses, accuracies and head scores, on held-out batches."""

import jax.numpy as jnp

from induction_jax import circuits, losses
from induction_jax.config import Config
from induction_jax.model import Model
from induction_jax.probes.held_out import HeldOut
from induction_jax.probes.probe import Probe
from induction_jax.state import TrainState
from induction_jax.types import Array, PyTree, Variable

PER_HEAD = ("step", "layer", "head")
TOKENS = ("pattern", "random", "induction")
VARIABLES = (
  Variable("pattern_accuracy", ("step",), "accuracy, predictable tokens"),
  Variable("pattern_loss", ("step",), "loss, predictable tokens", "nats"),
  Variable("random_accuracy", ("step",), "accuracy, other tokens"),
  Variable("random_loss", ("step",), "loss, other tokens", "nats"),
  Variable(
    "induction_accuracy", ("step",), "accuracy on repeats, predictable tokens"
  ),
  Variable(
    "induction_loss", ("step",), "loss on repeats, predictable tokens", "nats"
  ),
  Variable("prefix_matching", PER_HEAD, "prefix matching on repeats"),
  Variable("prefix_matching_null", (), "prefix matching, uniform attention"),
  Variable("previous_token", PER_HEAD, "attention to the previous token"),
  Variable("previous_token_null", (), "previous token, uniform attention"),
  Variable("duplicate_token", PER_HEAD, "attention to earlier copies"),
  Variable("duplicate_token_null", (), "duplicate token, uniform attention"),
  Variable(
    "prefix_matching_probe",
    PER_HEAD,
    "prefix matching, distinct tokens back to back",
  ),
  Variable(
    "prefix_matching_probe_null",
    (),
    "prefix matching, distinct tokens back to back, uniform attention",
  ),
  *(
    Variable(f"{tokens}_accuracy_null", (), "accuracy of a uniform guess")
    for tokens in TOKENS
  ),
  *(
    Variable(f"{tokens}_loss_null", (), "loss of a uniform guess", "nats")
    for tokens in TOKENS
  ),
)


def make_behaviour_probe(config: Config, model: Model) -> Probe:
  """Losses and accuracies on the run's task; heads judged on `repeats`.

  Head scores come from `repeats` whatever the task, so that a positional
  shortcut does not score as induction.
  """
  vocab_size = config.task.vocab_size
  on_repeats = config.task.name == "repeats"

  def constants(_: TrainState, held_out: HeldOut) -> dict[str, Array]:
    null = circuits.null_scores(held_out.induction)
    back_to_back = circuits.null_scores(held_out.back_to_back)
    return {
      **{f"{name}_null": x for name, x in null._asdict().items()},
      "prefix_matching_probe_null": back_to_back.prefix_matching,
      **{f"{x}_accuracy_null": jnp.float32(1 / vocab_size) for x in TOKENS},
      **{f"{x}_loss_null": jnp.log(jnp.float32(vocab_size)) for x in TOKENS},
    }

  def measure(
    state: TrainState, held_out: HeldOut, _: PyTree, carry: PyTree
  ) -> tuple[dict[str, Array], PyTree]:
    batch = held_out.induction
    logits, activations = model.apply(state.params, batch.tokens)
    induction = losses.evaluate(logits, batch)
    if on_repeats:
      values = induction
    else:
      logits, _ = model.apply(state.params, held_out.task.tokens)
      values = losses.evaluate(logits, held_out.task)
    batch = held_out.back_to_back
    pattern = model.apply(state.params, batch.tokens)[1].pattern
    back_to_back = circuits.score_heads(pattern, batch)
    return {
      **values,
      "induction_accuracy": induction["pattern_accuracy"],
      "induction_loss": induction["pattern_loss"],
      **circuits.score_heads(activations.pattern, held_out.induction)._asdict(),
      "prefix_matching_probe": back_to_back.prefix_matching,
    }, carry

  return Probe(
    name="behaviour",
    interval=config.behaviour.interval,
    variables=VARIABLES,
    constants=constants,
    measure=measure,
  )
