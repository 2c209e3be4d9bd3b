"""Behaviour: losses, accuracies and head scores, on held-out batches."""

import jax
import numpy as np

from induction_jax import circuits, losses, tasks
from induction_jax.config import Config
from induction_jax.model import Model
from induction_jax.probes.probe import Probe, Values, nothing
from induction_jax.state import TrainState, stream
from induction_jax.types import Array, Batch, Key, PyTree, Variable

PER_HEAD = ("step", "layer", "head")
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
  Variable("pattern_accuracy_null", (), "accuracy of a uniform guess"),
  Variable("pattern_loss_null", (), "loss of a uniform guess", "nats"),
)


def sample_induction(config: Config, key: Key) -> Batch:
  """The held-out batch of `repeats` on which a run's heads are judged."""
  sample = tasks.make_induction_sampler(
    config.task, config.behaviour.batch_size
  )
  return sample(stream(key, "induction"))


def make_behaviour_probe(config: Config, model: Model) -> Probe:
  """Losses and accuracies on the run's task; heads judged on `repeats`.

  Where the run's task is `repeats`, both are the same batch. Head scores come
  from `repeats` whatever the task, so that a positional shortcut does not
  score as induction.
  """
  size = config.behaviour.batch_size
  sample_task = tasks.make_sampler(config.task, size)
  sample_probe = tasks.make_probe_sampler(config.task, size)

  def batches(key: Key) -> tuple[Batch, Batch, Batch]:
    induction = sample_induction(config, key)
    task_key, probe_key = jax.random.split(stream(key, "behaviour"))
    on_repeats = config.task.name == "repeats"
    task = induction if on_repeats else sample_task(task_key)
    return task, induction, sample_probe(probe_key)

  def constants(state: TrainState) -> Values:
    _, induction, probe = batches(state.key)
    null = circuits.null_scores(induction)
    return {
      **{f"{name}_null": x for name, x in null._asdict().items()},
      "prefix_matching_probe_null": circuits.null_scores(probe).prefix_matching,
      "pattern_accuracy_null": np.float32(1 / config.task.vocab_size),
      "pattern_loss_null": np.float32(np.log(config.task.vocab_size)),
    }

  def measure(
    state: TrainState, _: PyTree, carry: PyTree
  ) -> tuple[dict[str, Array], PyTree]:
    task, induction, probe = batches(state.key)
    logits, _ = model.apply(state.params, task.tokens)
    values = losses.evaluate(logits, task)
    logits, activations = model.apply(state.params, induction.tokens)
    on_repeats = losses.evaluate(logits, induction)
    values["induction_accuracy"] = on_repeats["pattern_accuracy"]
    values["induction_loss"] = on_repeats["pattern_loss"]
    scores = circuits.score_heads(activations.pattern, induction)
    values |= scores._asdict()
    _, activations = model.apply(state.params, probe.tokens)
    scores = circuits.score_heads(activations.pattern, probe)
    values["prefix_matching_probe"] = scores.prefix_matching
    return values, carry

  return Probe(
    name="behaviour",
    interval=config.behaviour.interval,
    variables=VARIABLES,
    constants=constants,
    init_carry=nothing,
    prepare=nothing,
    measure=measure,
    finish=lambda arrays: jax.tree.map(np.asarray, arrays),
  )
