"""The optimiser and its learning rate, as optax transformations."""

import optax

from induction_jax.config import OptimConfig


def make_schedule(config: OptimConfig, num_steps: int) -> optax.Schedule:
  """The learning rate as a function of the number of updates done.

  Linear warm-up from 0, then constant, or cosine decay to 0 at `num_steps`.
  """
  if config.schedule == "cosine":
    return optax.schedules.warmup_cosine_decay_schedule(
      init_value=0.0 if config.warmup_steps else config.learning_rate,
      peak_value=config.learning_rate,
      warmup_steps=config.warmup_steps,
      decay_steps=num_steps,
    )
  return optax.schedules.warmup_constant_schedule(
    init_value=0.0 if config.warmup_steps else config.learning_rate,
    peak_value=config.learning_rate,
    warmup_steps=config.warmup_steps,
  )


def make_optimizer(
  config: OptimConfig, num_steps: int
) -> optax.GradientTransformation:
  """AdamW, Adam, or SGD with momentum.

  Gradients are first clipped by their global norm if `clip_norm` is not 0.
  """
  schedule = make_schedule(config, num_steps)
  if config.name == "sgd":
    tx = optax.sgd(schedule, momentum=config.momentum)
  elif config.name == "adam":
    tx = optax.adam(schedule, b1=config.b1, b2=config.b2, eps=config.eps)
  else:
    tx = optax.adamw(
      schedule,
      b1=config.b1,
      b2=config.b2,
      eps=config.eps,
      weight_decay=config.weight_decay,
    )
  if not config.clip_norm:
    return tx
  return optax.chain(optax.clip_by_global_norm(config.clip_norm), tx)
