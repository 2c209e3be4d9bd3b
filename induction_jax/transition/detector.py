"""When a learning curve jumps, with uncertainty, or that it does not.

A pure function of (steps, signal): pattern accuracy, prefix matching or
pattern loss, whichever the caller trusts, and nothing about curvature.
"""

from typing import NamedTuple

import numpy as np
from scipy import stats

from induction_jax.transition import models

# A model with every part has nine parameters; below this many points BIC, an
# asymptotic criterion, is not worth computing.
MIN_POINTS = 20
# Fewer measurements than this on a level of the jump may be an outlier.
MIN_LEVEL_POINTS = 3
# Drifts whose BIC is this near the best one's also have a say in the
# intervals: which drift lies under a jump is rarely clear, and moves its ends.
RIVAL_BIC = 10.0

_THRESHOLDS = {
  "min_amplitude": (0.0, np.inf),
  "max_width": (0.0, 1.0),
  "min_evidence": (0.0, np.inf),
  "min_signal_to_noise": (0.0, np.inf),
  "confidence": (0.0, 1.0),
}


class Interval(NamedTuple):
  """A point in training, in steps: low <= estimate <= high."""

  low: float
  estimate: float
  high: float


class Transition(NamedTuple):
  """What `detect` found; the numbers are of the best curve with a jump.

  onset, midpoint and completion are the 10, 50 and 90 % points of the jump,
  drift taken away, and None where the answer is none or ambiguous or where
  the point lies beyond the run's ends. With nothing to fit (a constant
  signal) the numbers are 0.
  """

  status: str = "none"  # detected | in_progress | before_start | ambiguous
  reason: str = ""  # the rule that decided
  onset: Interval | None = None
  midpoint: Interval | None = None
  completion: Interval | None = None
  amplitude: float = 0.0  # height seen in the run, signal units; < 0: falling
  width: float = 0.0  # steps from onset to completion
  bic_difference: float = 0.0  # best drift less best drift + jump; > 0: jump
  noise_sd: float = 0.0  # marginal, misfit included, signal units
  autocorrelation: float = 0.0  # of the noise over the median gap
  drift: str = "constant"  # constant | linear | power: beside the jump


def detect(
  steps: np.ndarray,
  signal: np.ndarray,
  *,
  min_amplitude: float,
  max_width: float = 0.25,
  min_evidence: float = 20.0,
  min_signal_to_noise: float = 4.0,
  confidence: float = 0.95,
) -> Transition:
  """Finds the main abrupt change of a learning curve, rising or falling.

  Compares drifts (constant, linear, power law of the step) with the same
  drifts plus a logistic jump, all in AR(1) noise, and answers

  * `none`: no curve with a jump is better by BIC; or the best one's jump is
    too low (`min_amplitude`, `min_signal_to_noise`) or too wide (`max_width`),
    which is what a slow ramp comes to;
  * `ambiguous`: a jump passes those gates but BIC gains less than
    `min_evidence`, or both its ends lie beyond the run, or one of its levels
    has fewer than 3 measurements;
  * `before_start`, `in_progress`: a jump whose onset lies before the first
    step, or whose completion lies after the last;
  * `detected`: otherwise.

  Amplitude counts only what was seen: the rise of the logistic from the first
  step to the last. A jump less than half of which was seen is an exponential,
  without a height or a midpoint: `midpoint` is then None, and the end that is
  given leans on the part seen. A jump that was over before the first step
  leaves a flat curve, which is `none`.

  Not yet calibrated: the false-alarm rate, for which `min_evidence` is a
  margin chosen on simulated drifts and not a level (chi-square thresholds do
  not hold, as the midpoint does not exist under the null; Davies 1987); and
  the intervals' coverage. A parametric bootstrap of both is to come.

  The intervals are the delta method's, with the larger of two variances: of
  the noise model and of a sandwich that holds if noise or misfit is larger at
  the jump; they span those of every drift within 10 of the best BIC. They take
  the logistic for true. On an asymmetric curve (a slow start and a sharp stop,
  or a long tail) the misfit goes into the autocorrelation, the fit follows the
  steepest part, and onset and completion lie symmetrically around it: the end
  at the slower side comes too near, the one at the sharper side too far.

  Args:
    steps: [N] steps of measurement, non-negative, increasing. They may be
      uneven: noise is then correlated as rho^(gap / median gap), so that a
      dense stretch does not count as many independent measurements.
    signal: [N] the curve, in any units.
    min_amplitude: the smallest jump of interest, in units of the signal.
    max_width: the widest jump, 10-90 %, as a fraction of last - first step.
    min_evidence: how much BIC must gain, in units of 2 log likelihood.
    min_signal_to_noise: the smallest amplitude in marginal noise sds.
    confidence: nominal coverage of the intervals.

  Returns:
    A Transition. Intervals cover at least the two measurements around the
    estimate. Scaling or shifting the signal (and `min_amplitude` with it)
    changes nothing but the units. About 0.4 s for 200 points on one core.

  Raises:
    ValueError: for arrays of unequal length, fewer than 20 points, values
      that are not finite, steps that do not increase or are negative, or a
      threshold out of range.
  """
  steps, signal = _check_curve(steps, signal)
  _check_thresholds(
    min_amplitude=min_amplitude,
    max_width=max_width,
    min_evidence=min_evidence,
    min_signal_to_noise=min_signal_to_noise,
    confidence=confidence,
  )
  height = np.ptp(signal)
  if height <= 1e-12 * np.max(np.abs(signal)):
    return Transition("none", "the signal is constant")
  curve = models.make_curve(steps, signal)
  null = models.fit_drifts(curve, jump=False)[0]
  rivals = models.fit_drifts(curve, jump=True)
  best = rivals[0]
  span = steps[-1] - steps[0]
  found = Transition(
    amplitude=float(height * models.visible_jump(curve, best)),
    width=float(span * models.jump_width(curve, *best.theta[1:3])),
    bic_difference=null.bic - best.bic,
    noise_sd=float(height * best.noise_sd),
    autocorrelation=float(best.theta[0]),
    drift=best.model.drift,
  )
  points = _points(steps, curve, rivals, confidence)
  onset, _, completion = (point.estimate for point in points)
  status, reason = (
    _rejection(found, min_amplitude, max_width * span, min_signal_to_noise)
    or _doubt(found, steps, onset, completion, min_evidence)
    or _acceptance(steps, onset, completion)
  )
  found = found._replace(status=status, reason=reason)
  if status in ("none", "ambiguous"):
    return found
  # A midpoint at the very end of the run is at its bound, not an estimate.
  seen = [p if steps[0] < p.estimate < steps[-1] else None for p in points]
  return found._replace(onset=seen[0], midpoint=seen[1], completion=seen[2])


def _rejection(
  found: Transition,
  min_amplitude: float,
  max_width: float,
  min_signal_to_noise: float,
) -> tuple[str, str] | None:
  height = abs(found.amplitude)
  if found.bic_difference <= 0:
    return "none", "drift alone is as good"
  if height < min_amplitude:
    return "none", "amplitude below min_amplitude"
  if height < min_signal_to_noise * found.noise_sd:
    return "none", "amplitude within the noise"
  if found.width > max_width:
    return "none", "wider than max_width"
  return None


def _doubt(
  found: Transition,
  steps: np.ndarray,
  onset: float,
  completion: float,
  min_evidence: float,
) -> tuple[str, str] | None:
  if found.bic_difference < min_evidence:
    return "ambiguous", "evidence below min_evidence"
  if onset < steps[0] and completion > steps[-1]:
    return "ambiguous", "both ends lie beyond the run"
  beside = min(np.sum(steps > onset), np.sum(steps < completion))
  if beside < MIN_LEVEL_POINTS:
    return "ambiguous", "too few measurements on one level"
  return None


def _acceptance(
  steps: np.ndarray, onset: float, completion: float
) -> tuple[str, str]:
  if completion > steps[-1]:
    return "in_progress", "completion lies beyond the last step"
  if onset < steps[0]:
    return "before_start", "onset lies before the first step"
  return "detected", "every gate passed"


def _points(
  steps: np.ndarray,
  curve: models.Curve,
  rivals: list[models.Fit],
  confidence: float,
) -> list[Interval]:
  """Onset, midpoint and completion of the first rival, wherever they lie."""
  plausible = [
    _delta_intervals(curve, fit, confidence)
    for fit in rivals
    if fit.bic < rivals[0].bic + RIVAL_BIC
  ]  # [rivals, point, (low, estimate, high)]
  lows, highs = np.min(plausible, axis=0), np.max(plausible, axis=0)
  span = steps[-1] - steps[0]
  points = []
  for low, estimate, high in zip(lows[:, 0], plausible[0][:, 1], highs[:, 2]):
    low, estimate, high = steps[0] + span * np.array([low, estimate, high])
    after = np.searchsorted(steps, estimate, side="right")
    after = np.clip(after, 1, len(steps) - 1)
    points.append(
      Interval(
        float(min(low, steps[after - 1], estimate)),
        float(estimate),
        float(max(high, steps[after], estimate)),
      )
    )
  return points


def _delta_intervals(
  curve: models.Curve, fit: models.Fit, confidence: float
) -> np.ndarray:
  """[3, 3]: low, estimate, high of onset, midpoint, completion; run time."""
  width = models.jump_width(curve, *fit.theta[1:3])
  offset = width * np.array([-0.5, 0.0, 0.5])
  # The offset is a fixed fraction of the width, so d offset / d log width is
  # the offset itself.
  directions = np.stack([np.ones(3), offset], axis=1)  # [3, 2]
  variance = np.max(
    [
      np.sum(directions @ each * directions, axis=1)
      for each in models.covariance(curve, fit)
    ],
    axis=0,
  )
  n_free = len(curve.time) - len(fit.coefficients) - len(fit.theta) - 1
  half = stats.t.ppf((1 + confidence) / 2, n_free) * np.sqrt(variance)
  estimate = fit.theta[1] + offset
  return np.stack([estimate - half, estimate, estimate + half], axis=1)


def _check_curve(
  steps: np.ndarray, signal: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  steps = np.asarray(steps, dtype=float)
  signal = np.asarray(signal, dtype=float)
  if steps.ndim != 1 or steps.shape != signal.shape:
    raise ValueError(
      "steps and signal must be vectors of equal length, got shapes "
      f"{steps.shape} and {signal.shape}"
    )
  if len(steps) < MIN_POINTS:
    raise ValueError(
      f"a curve must have at least {MIN_POINTS} points, got {len(steps)}"
    )
  for name, values in (("steps", steps), ("signal", signal)):
    wrong = np.flatnonzero(~np.isfinite(values))
    if wrong.size:
      raise ValueError(
        f"{name} must be finite, got {values[wrong[0]]} at index {wrong[0]}"
      )
  if steps[0] < 0:
    raise ValueError(f"steps must not be negative, got {steps[0]:g}")
  stuck = np.flatnonzero(np.diff(steps) <= 0)
  if stuck.size:
    raise ValueError(
      f"steps must increase, got {steps[stuck[0]]:g} and then "
      f"{steps[stuck[0] + 1]:g}"
    )
  return steps, signal


def _check_thresholds(**thresholds: float) -> None:
  for name, value in thresholds.items():
    low, high = _THRESHOLDS[name]
    if not low <= value < high:
      raise ValueError(f"{name} must be in [{low}, {high}), got {value}")
