"""When a run measures and saves: functions of step, config and alarm."""

from collections.abc import Mapping
from typing import Protocol

from induction_jax.config import Config
from induction_jax.measurements import Measurement
from induction_jax.types import PyTree

# A measurement's carry by its name, as a snapshot holds them.
Carries = Mapping[str, PyTree]


class Schedule(Protocol):
  """Tells the loop what is due at a step."""

  last_step: int

  def is_due(
    self, measurement: Measurement, step: int, carries: Carries
  ) -> bool: ...

  def checkpoint_is_due(self, step: int) -> bool: ...

  def next_stop(self, step: int, carries: Carries) -> int:
    """The first step after this one at which anything is due."""

  def checkpoints_left(self, step: int) -> int:
    """An upper bound on the checkpoints due after this step."""


class TrainingSchedule:
  """Measures at the intervals of a config, and spectra more often in an alarm.

  At the last step everything is measured. Checkpoints are due every
  `checkpoint.interval` steps, and with `checkpoint.log_spaced` also at the
  powers of two below that.

  Args:
    config: of the run.
    measurements: those of the run. One of interval 0 is never due by itself,
      only made where another one uses it.
  """

  def __init__(self, config: Config, measurements: tuple[Measurement, ...]):
    self.last_step = config.train.num_steps
    self._adaptive = config.spectra.adaptive
    self._checkpoint = config.checkpoint
    self._measurements = [each for each in measurements if each.interval]

  def is_due(
    self, measurement: Measurement, step: int, carries: Carries
  ) -> bool:
    interval = self._interval(measurement, carries)
    if interval == 0:
      return False
    return step % interval == 0 or step == self.last_step

  def checkpoint_is_due(self, step: int) -> bool:
    if step % self._checkpoint.interval == 0:
      return True
    is_power_of_two = step & (step - 1) == 0
    early = step < self._checkpoint.interval
    return self._checkpoint.log_spaced and early and is_power_of_two

  def next_stop(self, step: int, carries: Carries) -> int:
    intervals = [
      self._interval(measurement, carries) for measurement in self._measurements
    ]
    intervals.append(self._checkpoint.interval)
    stops = [interval * (step // interval + 1) for interval in intervals]
    if self._checkpoint.log_spaced and step < self._checkpoint.interval:
      stops.append(1 << step.bit_length())
    return min(*stops, self.last_step)

  def checkpoints_left(self, step: int) -> int:
    interval = self._checkpoint.interval
    early = interval.bit_length() if self._checkpoint.log_spaced else 0
    return self.last_step // interval - step // interval + early + 2

  def _interval(self, measurement: Measurement, carries: Carries) -> int:
    is_alarmed = "alarm" in carries and int(carries["alarm"]["alarm"])
    if is_alarmed and measurement.name == "spectra":
      return self._adaptive
    return measurement.interval
