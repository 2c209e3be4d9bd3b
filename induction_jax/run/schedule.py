"""At which steps what is due: functions of step and config alone."""

from collections.abc import Iterable

from induction_jax.config import Config


def measurement_due(step: int, interval: int, num_steps: int) -> bool:
  return step % interval == 0 or step == num_steps


def checkpoint_due(step: int, config: Config) -> bool:
  """Powers of two up to the interval, if wanted; then every interval."""
  interval = config.checkpoint.interval
  if step % interval == 0:
    return True
  early = config.checkpoint.log_spaced and step < interval
  return early and step & (step - 1) == 0


def checkpoints_left(step: int, config: Config) -> int:
  """How many more are due, at most: those of checkpoint_due, and the last."""
  interval = config.checkpoint.interval
  early = interval.bit_length() if config.checkpoint.log_spaced else 0
  return config.train.num_steps // interval - step // interval + early + 2


def next_stop(step: int, intervals: Iterable[int], config: Config) -> int:
  """The next step at which a probe, a checkpoint or the end is due."""
  intervals = [*intervals, config.checkpoint.interval]
  stops = [interval * (step // interval + 1) for interval in intervals]
  if config.checkpoint.log_spaced and step < config.checkpoint.interval:
    stops.append(1 << step.bit_length())
  return min(*stops, config.train.num_steps)
