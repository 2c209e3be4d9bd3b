"""Behaviour: losses, accuracies and head scores, on held-out batches."""

import jax
import jax.numpy as jnp

from induction_jax import circuits
from induction_jax.config import Config
from induction_jax.measurements.curvature import Curvature
from induction_jax.measurements.measurement import (
  PER_HEAD,
  Inputs,
  Measurement,
)
from induction_jax.model import Model, losses
from induction_jax.training.memory import MEASURING_BYTES, fit_cache
from induction_jax.types import Array, Batch, Params, Variable

TOKENS = ("pattern", "random", "induction")
# Occurrences of a pattern, of which the last includes all later ones.
OCCURRENCES = 8
UNIFORM_LOSSES = (
  *(f"{tokens}_loss" for tokens in TOKENS),
  "loss_by_occurrence",
  "loss_by_position",
)
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
  Variable(
    "loss_by_occurrence",
    ("step", "occurrence"),
    "loss on repeats, by occurrence of the pair of tokens",
    "nats",
  ),
  Variable(
    "loss_by_position", ("step", "position"), "loss, all tokens", "nats"
  ),
  Variable(
    "in_context_score",
    ("step",),
    "loss late in context minus loss early",
    "nats",
  ),
  Variable(
    "in_context_score_null",
    (),
    "in-context score, context ignored",
    "nats",
  ),
  Variable("prefix_matching", PER_HEAD, "prefix matching on repeats"),
  Variable("prefix_matching_null", (), "prefix matching, uniform attention"),
  Variable("previous_token", PER_HEAD, "attention to the previous token"),
  Variable("previous_token_null", (), "previous token, uniform attention"),
  Variable("duplicate_token", PER_HEAD, "attention to earlier copies"),
  Variable("duplicate_token_null", (), "duplicate token, uniform attention"),
  Variable(
    "prefix_matching_back_to_back",
    PER_HEAD,
    "prefix matching, distinct tokens back to back",
  ),
  Variable(
    "prefix_matching_back_to_back_null",
    (),
    "prefix matching, distinct tokens back to back, uniform attention",
  ),
  *(
    Variable(f"{tokens}_accuracy_null", (), "accuracy of a uniform guess")
    for tokens in TOKENS
  ),
  *(
    Variable(f"{name}_null", (), "loss of a uniform guess", "nats")
    for name in UNIFORM_LOSSES
  ),
)


def make_behaviour(config: Config, model: Model, _: Curvature) -> Measurement:
  """Makes the measurement of losses and accuracies, and of head scores.

  Losses and accuracies are on the run's task. Head scores are on `repeats`
  for every task, so that a positional shortcut does not score as induction.
  """
  vocab_size = config.task.vocab_size
  on_repeats = config.task.name == "repeats"
  at_once = config.behaviour.batch_size
  if not model.mixes_sequences and config.mesh.data == 1:
    at_once = fit_cache(config, at_once, jax.default_backend(), MEASURING_BYTES)

  def nulls(inputs: Inputs) -> dict[str, Array]:
    null = circuits.null_scores(inputs.batches.induction)
    back_to_back = circuits.null_scores(inputs.batches.back_to_back)
    return {
      **{f"{name}_null": x for name, x in null._asdict().items()},
      "prefix_matching_back_to_back_null": back_to_back.prefix_matching,
      **{f"{x}_accuracy_null": jnp.float32(1 / vocab_size) for x in TOKENS},
      **{f"{x}_null": jnp.log(jnp.float32(vocab_size)) for x in UNIFORM_LOSSES},
      "in_context_score_null": jnp.float32(0),
    }

  def measure(inputs: Inputs) -> dict[str, Array]:
    params, batches = inputs.state.params, inputs.batches
    batch = batches.induction
    logits, scores = _observe(model, params, batch, at_once)
    induction = losses.evaluate(logits, batch)
    on_induction = losses.token_losses(logits, batch.targets)
    if on_repeats:
      values, on_task = induction, on_induction
    else:
      logits, _ = _observe(model, params, batches.task, at_once)
      values = losses.evaluate(logits, batches.task)
      on_task = losses.token_losses(logits, batches.task.targets)
    _, back_to_back = _observe(model, params, batches.back_to_back, at_once)
    return {
      **values,
      "induction_accuracy": induction["pattern_accuracy"],
      "induction_loss": induction["pattern_loss"],
      "loss_by_occurrence": losses.by_occurrence(
        on_induction, batch, OCCURRENCES
      ),
      "loss_by_position": jnp.mean(on_task, axis=0),
      "in_context_score": losses.in_context_score(on_task),
      **scores._asdict(),
      "prefix_matching_back_to_back": back_to_back.prefix_matching,
    }

  return Measurement(
    name="behaviour",
    interval=config.behaviour.interval,
    variables=VARIABLES,
    coordinates={
      "occurrence": range(1, OCCURRENCES + 1),
      "position": range(config.task.seq_length),
    },
    measure=measure,
    nulls=nulls,
  )


def _observe(
  model: Model, params: Params, batch: Batch, at_once: int
) -> tuple[Array, circuits.HeadScores]:
  """Logits [B, T, V] and head scores, for `at_once` sequences at a time."""

  def observe(batch: Batch) -> tuple[Array, circuits.HeadScores]:
    logits, activations = model.apply(params, batch.tokens)
    return logits, circuits.score_heads(activations.pattern, batch)

  size = batch.tokens.shape[0]
  if at_once == size:
    return observe(batch)
  parts = jax.tree.map(
    lambda x: x.reshape(size // at_once, at_once, *x.shape[1:]), batch
  )
  logits, scores = jax.lax.map(observe, parts)
  return (
    logits.reshape(size, *logits.shape[2:]),
    circuits.join_scores(scores, parts.predictable),
  )
