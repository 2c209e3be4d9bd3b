"""What is said of a curve: points in training, jumps, a transition."""

from typing import NamedTuple


class Interval(NamedTuple):
  """A point in training, in steps: low <= estimate <= high."""

  low: float
  estimate: float
  high: float


class Jump(NamedTuple):
  """One logistic change. A point beyond the run's ends is None.

  onset, midpoint and completion are its 10, 50 and 90 % points, drift and
  other jumps taken away.
  """

  status: str  # none | detected | in_progress | before_start | ambiguous
  reason: str  # the rule that decided
  onset: Interval | None
  midpoint: Interval | None
  completion: Interval | None
  amplitude: float  # height seen in the run, signal units; < 0: falling
  width: float  # steps from onset to completion
  p_value: float  # that the curve has no such jump


class Transition(NamedTuple):
  """What `detect` found.

  status, reason and times are those of the largest jump found, or of the one
  that came nearest where none was; `jumps` has every one found, by time. With
  nothing to fit (a constant signal) the numbers are 0.
  """

  status: str = "none"  # detected | in_progress | before_start | ambiguous
  reason: str = ""
  onset: Interval | None = None
  midpoint: Interval | None = None
  completion: Interval | None = None
  amplitude: float = 0.0
  width: float = 0.0
  p_value: float = 1.0
  noise_sd: float = 0.0  # marginal, misfit included, signal units
  autocorrelation: float = 0.0  # of the noise over the median gap
  drift: str = "constant"  # constant | linear | power: beside the jumps
  jumps: tuple[Jump, ...] = ()
