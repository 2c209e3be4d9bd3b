"""What a fitted jump is worth: found, doubtful, or no abrupt change."""

from typing import NamedTuple

import numpy as np

from induction_jax.transition import intervals, models
from induction_jax.transition.answers import Interval, Jump

# Fewer measurements than this on a level of a jump may be an outlier.
MIN_LEVEL_POINTS = 3
ANSWERED = ("detected", "in_progress", "before_start")


class Gates(NamedTuple):
  """What a jump must be to count; see `detect`."""

  min_amplitude: float
  max_width: float
  max_ratio: float
  min_signal_to_noise: float
  min_share: float
  significance: float


def judge(
  curve: models.Curve,
  fitted: models.Fit,
  height: float,
  gates: Gates,
  index: int,
  p_value: float,
  bounds: np.ndarray,
) -> Jump:
  """One jump of a fit, judged."""
  times = intervals.points(curve, fitted)[index, :3]
  seen = models.rises(curve, fitted)[index]
  points = [
    _interval(curve, estimate, *each) for estimate, each in zip(times, bounds)
  ]
  onset, _, completion = (point.estimate for point in points)
  jump = Jump(
    "", "", None, None, None, float(height * seen), completion - onset, p_value
  )
  status, reason = (
    _rejection(curve, jump, fitted, height, gates, times, bounds[3, 0])
    or _doubt(curve, p_value, times, gates.significance)
    or _acceptance(times)
  )
  jump = jump._replace(status=status, reason=reason)
  if status not in ANSWERED:
    return jump
  # A midpoint at the very end of the run is at its bound, not an estimate.
  inside = [
    p if curve.steps[0] < p.estimate < curve.steps[-1] else None for p in points
  ]
  return jump._replace(
    onset=inside[0], midpoint=inside[1], completion=inside[2]
  )


def precedence(jump: Jump) -> tuple[int, float]:
  """Found before doubtful before refused; then the largest first."""
  rank = 0 if jump.status in ANSWERED else 1 + (jump.status == "none")
  return rank, -abs(jump.amplitude)


def _interval(
  curve: models.Curve, estimate: float, low: float, high: float
) -> Interval:
  """In steps, with at least the two measurements around the estimate."""
  above = np.searchsorted(curve.time, estimate, side="right")
  after = int(np.clip(above, 1, len(curve.time) - 1))
  low, estimate, high = models.steps_at(curve, np.array([low, estimate, high]))
  return Interval(
    float(min(low, curve.steps[after - 1], estimate)),
    float(estimate),
    float(max(high, curve.steps[after], estimate)),
  )


def _rejection(
  curve: models.Curve,
  jump: Jump,
  fitted: models.Fit,
  height: float,
  gates: Gates,
  times: np.ndarray,
  least_width: float,
) -> tuple[str, str] | None:
  amplitude = abs(jump.amplitude)
  if amplitude < gates.min_amplitude:
    return "none", "amplitude below min_amplitude"
  if amplitude < gates.min_signal_to_noise * fitted.noise_sd * height:
    return "none", "amplitude within the noise"
  if amplitude < gates.min_share * height:
    return "none", "amplitude below min_share of the signal's range"
  if least_width > gates.max_width:
    return "none", "wider than max_width"
  ends = models.steps_at(curve, np.maximum(times[[0, 2]], 0.0)) + curve.gap
  if ends[1] > gates.max_ratio * ends[0]:
    return "none", "slower than max_ratio"
  return None


def _doubt(
  curve: models.Curve, p_value: float, times: np.ndarray, significance: float
) -> tuple[str, str] | None:
  onset, _, completion = times
  if onset < 0 and completion > 1:
    return "ambiguous", "both ends lie beyond the run"
  beside = min(np.sum(curve.time > onset), np.sum(curve.time < completion))
  if beside < MIN_LEVEL_POINTS:
    return "ambiguous", "too few measurements on one level"
  if onset < 0 or completion > 1:
    significance /= 2  # half a jump is what a bend of the drift resembles most
  if p_value > significance:
    return "ambiguous", f"p = {p_value:.3g} is above {significance:g}"
  return None


def _acceptance(times: np.ndarray) -> tuple[str, str]:
  if times[2] > 1:
    return "in_progress", "completion lies beyond the last step"
  if times[0] < 0:
    return "before_start", "onset lies before the first step"
  return "detected", "every gate passed"
