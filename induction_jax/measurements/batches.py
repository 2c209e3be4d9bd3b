"""Evaluation batches: drawn once and used at every step of a run."""

from collections.abc import Callable
from typing import NamedTuple

import jax

from induction_jax import tasks
from induction_jax.config import Config
from induction_jax.devices.mesh import make_placement
from induction_jax.training.state import stream
from induction_jax.types import Batch, Key


class EvaluationBatches(NamedTuple):
  """Held-out batches, which depend on the run's key only.

  Attributes:
    task: from the run's task. If the task is `repeats`, this is `induction`.
    induction: from `repeats` at the run's sizes, for head scores.
    back_to_back: distinct tokens, repeated without gaps.
    curvature: from the run's task, for the Hessian.
  """

  task: Batch
  induction: Batch
  back_to_back: Batch
  curvature: Batch


def make_draw_batches(config: Config) -> Callable[[Key], EvaluationBatches]:
  """Makes the function key -> EvaluationBatches, called once in a run."""
  task, size = config.task, config.behaviour.batch_size
  sample_task = tasks.make_sampler(task, size)
  sample_induction = tasks.make_repeats(task, size)
  sample_back_to_back = tasks.make_back_to_back(task, size)
  sample_curvature = tasks.make_sampler(task, config.spectra.batch_size)
  placement = make_placement(config.mesh)

  def draw(key: Key) -> EvaluationBatches:
    _, back_to_back_key = jax.random.split(stream(key, "behaviour"))
    induction = sample_induction(stream(key, "induction"))
    on_repeats = task.name == "repeats"
    batches = EvaluationBatches(
      task=induction if on_repeats else sample_task(task_key(key)),
      induction=induction,
      back_to_back=sample_back_to_back(back_to_back_key),
      curvature=sample_curvature(jax.random.fold_in(stream(key, "spectra"), 0)),
    )
    return placement.shard_batch(batches)

  return draw


def task_key(key: Key) -> Key:
  """The key from which the task's evaluation batch is drawn."""
  return jax.random.split(stream(key, "behaviour"))[0]
