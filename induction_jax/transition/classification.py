"""What is reported of a curve, and how a fitted jump is classified."""

from typing import NamedTuple

import numpy as np

from induction_jax.transition import curves, intervals
from induction_jax.transition.evidence import MIN_SHARE

# The statuses of a jump that was found.
FOUND = ("detected", "in_progress", "before_start")
# The largest 10-90 % width, as a fraction of the run. The calibration covers
# widths up to 0.3; wider logistics cannot be distinguished from a drift.
MAX_WIDTH = 0.35
# The largest ratio of completion to onset. A change that takes longer than
# three times the time before it is not abrupt.
MAX_RATIO = 4.0
# The smallest amplitude, in marginal standard deviations of the noise.
MIN_SIGNAL_TO_NOISE = 2.0
# Fewer measurements than this on one side of a jump may be outliers.
MIN_PLATEAU_POINTS = 3


class Interval(NamedTuple):
  """A step of training with its interval, low <= estimate <= high."""

  low: float
  estimate: float
  high: float


class Jump(NamedTuple):
  """One logistic jump; points outside the run are None.

  The onset, midpoint and completion are the 10, 50 and 90 % points of the
  logistic, after the drift and the other jumps have been subtracted.
  """

  status: str  # none | detected | in_progress | before_start | ambiguous
  reason: str  # the rule that decided the status
  onset: Interval | None
  midpoint: Interval | None
  completion: Interval | None
  amplitude: float  # signed rise within the run, in the signal's units
  width: float  # steps from onset to completion
  p_value: float  # of the null hypothesis without this jump


class Transition(NamedTuple):
  """The result of `detect`.

  The status, reason and points are those of the largest jump found. Without
  one they are those of the jump that came closest. The numbers of a constant
  signal are 0.
  """

  status: str = "none"  # detected | in_progress | before_start | ambiguous
  reason: str = ""
  onset: Interval | None = None
  midpoint: Interval | None = None
  completion: Interval | None = None
  amplitude: float = 0.0
  width: float = 0.0
  p_value: float = 1.0
  noise_sd: float = 0.0  # marginal, misfit included, in the signal's units
  autocorrelation: float = 0.0  # of the noise over the median gap
  drift: str = "constant"  # constant | linear | power
  jumps: tuple[Jump, ...] = ()  # every jump found, in order of time


def classify_jump(
  curve: curves.Curve,
  fitted: curves.Fit,
  index: int,
  bounds: np.ndarray,
  *,
  height: float,
  p_value: float,
  min_amplitude: float,
  significance: float,
) -> Jump:
  """Classifies one jump of a fit and converts its points to steps.

  Args:
    curve: the curve that was fitted.
    fitted: its fit.
    index: which jump of the fit.
    bounds: [4, 2] intervals of its onset, midpoint, completion and width, in
      time.
    height: the signal's range, in the signal's units.
    p_value: of this jump.
    min_amplitude: the smallest amplitude that counts, in the signal's units.
    significance: the level of the test.
  """
  times = intervals.points(curve, fitted)[index, :3]
  points = [
    _interval(curve, estimate, *each) for estimate, each in zip(times, bounds)
  ]
  amplitude = float(height * curves.rises(curve, fitted)[index])
  noise = fitted.noise_sd * height
  status, reason = (
    _reject_height(abs(amplitude), min_amplitude, noise, height)
    or _reject_slowness(curve, times, least_width=bounds[3, 0])
    or _doubt(curve, p_value, times, significance)
    or _accept(times)
  )
  # A midpoint at the end of the run is at its bound and is no estimate.
  onset, midpoint, completion = (
    point
    if status in FOUND and curve.steps[0] < point.estimate < curve.steps[-1]
    else None
    for point in points
  )
  width = points[2].estimate - points[0].estimate
  return Jump(
    status, reason, onset, midpoint, completion, amplitude, width, p_value
  )


def precedence(jump: Jump) -> tuple[int, float]:
  """Sort key: found, then ambiguous, then rejected; the largest first."""
  rank = 0 if jump.status in FOUND else 1 + (jump.status == "none")
  return rank, -abs(jump.amplitude)


def _interval(
  curve: curves.Curve, estimate: float, low: float, high: float
) -> Interval:
  """In steps, widened to the two measurements around the estimate."""
  above = np.searchsorted(curve.time, estimate, side="right")
  after = int(np.clip(above, 1, len(curve.time) - 1))
  low, estimate, high = curves.steps_at(curve, np.array([low, estimate, high]))
  return Interval(
    float(min(low, curve.steps[after - 1], estimate)),
    float(estimate),
    float(max(high, curve.steps[after], estimate)),
  )


def _reject_height(
  amplitude: float, min_amplitude: float, noise: float, height: float
) -> tuple[str, str] | None:
  if amplitude < min_amplitude:
    return "none", "amplitude below min_amplitude"
  if amplitude < MIN_SIGNAL_TO_NOISE * noise:
    return "none", "amplitude within the noise"
  if amplitude < MIN_SHARE * height:
    return "none", f"amplitude below {MIN_SHARE:.0%} of the signal's range"
  return None


def _reject_slowness(
  curve: curves.Curve, times: np.ndarray, least_width: float
) -> tuple[str, str] | None:
  if least_width > MAX_WIDTH:
    return "none", f"wider than {MAX_WIDTH:.0%} of the run"
  # Both ages count from one median gap before step 0, and an onset before the
  # first step counts as being at the first step.
  ages = curves.steps_at(curve, np.maximum(times[[0, 2]], 0.0)) + curve.gap
  if ages[1] > MAX_RATIO * ages[0]:
    return "none", f"completion later than {MAX_RATIO:g} times the onset"
  return None


def _doubt(
  curve: curves.Curve, p_value: float, times: np.ndarray, significance: float
) -> tuple[str, str] | None:
  onset, _, completion = times
  if onset < 0 and completion > 1:
    return "ambiguous", "both ends lie beyond the run"
  beside = min(np.sum(curve.time > onset), np.sum(curve.time < completion))
  if beside < MIN_PLATEAU_POINTS:
    return "ambiguous", "too few measurements on one plateau"
  if onset < 0 or completion > 1:
    # A jump with one end unseen is what a bend of the drift resembles most.
    significance /= 2
  if p_value > significance:
    return "ambiguous", f"p = {p_value:.3g} is above {significance:g}"
  return None


def _accept(times: np.ndarray) -> tuple[str, str]:
  if times[2] > 1:
    return "in_progress", "completion lies beyond the last step"
  if times[0] < 0:
    return "before_start", "onset lies before the first step"
  return "detected", "every criterion met"
