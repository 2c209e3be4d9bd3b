"""Dates the abrupt changes of a learning curve, or finds that it has none.

The signal is pattern accuracy, prefix matching, pattern loss, or any other
function of the step. experiments/calibrate_detector.py measures the error
rates.
"""

import numpy as np

from induction_jax.transition import curves, intervals
from induction_jax.transition.classification import (
  FOUND,
  Transition,
  classify_jump,
  precedence,
)
from induction_jax.transition.selection import DOUBT, select_jumps

# A model with one jump and a power-law drift has nine parameters.
MIN_POINTS = 20
# The level of each test by default. At 0.01 the detector misses one in twenty
# jumps of 30 % of the run and five noise standard deviations, at 0.02 one in
# fifty. False alarms stay below 0.05 in every cell of the calibration.
SIGNIFICANCE = 0.02
# One seed for all bootstraps, so that a curve always has the same dates.
SEED = 0


def detect(
  steps: np.ndarray,
  signal: np.ndarray,
  *,
  min_amplitude: float = 0.0,
  significance: float = SIGNIFICANCE,
  log_time: bool = False,
) -> Transition:
  """Finds the abrupt changes of a learning curve, rising or falling.

  The curve is modelled as a drift (constant, linear, or a power law of the
  step) plus up to three logistic jumps in AR(1) noise. Jumps are added one at
  a time, as long as a parametric bootstrap of the likelihood ratio rejects the
  model without the next one. Where the first test does not reject, two or
  three jumps together may still be significant, each at half the level. The
  status is

  * `none`: no jump is significant, or no significant jump is both high enough
    (`min_amplitude`, MIN_SIGNAL_TO_NOISE, MIN_SHARE) and abrupt enough
    (MAX_WIDTH, MAX_RATIO). Ramps and broken power laws end here.
  * `ambiguous`: the first jump meets those criteria, but its p-value lies
    between `significance` and five times `significance`; or both ends of the
    jump lie beyond the run; or one of its plateaus has fewer than 3
    measurements. If one end of the jump lies beyond the run, the lower limit of
    the p-value is half as large, because a bend of the drift looks most like
    such a jump.
  * `before_start`: the onset lies before the first step (left-censored).
  * `in_progress`: the completion lies after the last step (right-censored).
  * `detected`: in every other case.

  Two logistics whose 10-90 % bands overlap count as one jump. The amplitude is
  the rise of the logistic between the first and the last step. If less than
  half of a jump was seen, it looks like an exponential, which determines
  neither a height nor a midpoint: `midpoint` is None, and the reported end
  depends on the part that was seen. A jump that was complete before the first
  step leaves a flat curve, whose status is `none`.

  The noise is assumed to be Gaussian. A single outlier several times as large
  as the jump can be taken for the transition, because it stretches the range
  to which MIN_SHARE refers. Look at the curve, or leave the outlier out.

  The intervals have a nominal coverage of 95 % (see `intervals`). They are the
  union of the intervals under every drift whose BIC is within 4 of the best,
  and include at least the two measurements around the estimate. They assume
  that the jump is a logistic. On an asymmetric curve (a slow start and a sharp
  stop, or a long tail) the misfit enters the autocorrelation and the fit
  follows the steepest part. Onset and completion lie symmetrically around it,
  so that the end on the slower side comes out too near and the one on the
  sharper side too far.

  Args:
    steps: [N] steps of measurement, non-negative and increasing. They may be
      uneven: the correlation of the noise is rho^(gap / median gap), so that a
      dense stretch does not count as many independent measurements.
    signal: [N] the curve, in any units.
    min_amplitude: the smallest jump of interest, in units of the signal.
    significance: the level of the test of each further jump. The smallest
      possible p-value is 1 / 200, so that below 0.01 jumps that are only
      jointly significant cannot be found.
    log_time: whether the jumps are logistic in log(step + median gap) instead
      of in the step.

  Returns:
    A Transition. Scaling or shifting the signal (and scaling `min_amplitude`
    with it) changes only the units of the result. 400 points take half a
    second on one core.

  Raises:
    ValueError: if the arrays have different lengths or fewer than 20 points,
      contain masked, non-finite or complex values, if the steps are negative or
      do not increase, or if a threshold is out of range.
  """
  steps, signal = _check_curve(steps, signal)
  _check_thresholds(min_amplitude, significance)
  height = np.ptp(signal)
  if height <= 1e-12 * np.max(np.abs(signal)):
    return Transition("none", "the signal is constant")
  curve = curves.make_curve(steps, signal, log_time)
  rng = np.random.default_rng(SEED)
  rivals, p_values = select_jumps(curve, significance, rng)
  best = rivals[0]
  found = Transition(
    reason="no jump is needed",
    p_value=p_values[0],
    noise_sd=float(height * best.noise_sd),
    autocorrelation=float(best.theta[0]),
    drift=best.model.drift,
  )
  if not best.model.jumps:
    return found
  bounds = intervals.span_rivals(curve, rivals, rng)
  jumps = [
    classify_jump(
      curve,
      best,
      i,
      bounds[i],
      height=height,
      p_value=p_values[i],
      min_amplitude=min_amplitude,
      significance=significance,
    )
    for i in range(best.model.jumps)
  ]
  main = min(jumps, key=precedence)
  order = np.argsort(intervals.points(curve, best)[:, 1])
  return found._replace(
    **main._asdict(),
    jumps=tuple(jumps[i] for i in order if jumps[i].status in FOUND),
  )


def _check_curve(
  steps: np.ndarray, signal: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  if np.ma.is_masked(steps) or np.ma.is_masked(signal):
    raise ValueError(
      "steps and signal must not be masked: remove masked points first"
    )
  if np.iscomplexobj(steps) or np.iscomplexobj(signal):
    raise ValueError("steps and signal must be real, got complex numbers")
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
  if np.max(signal) / 2 - np.min(signal) / 2 > np.finfo(float).max / 2:
    raise ValueError(
      "the signal's range must be finite, got values from "
      f"{np.min(signal):g} to {np.max(signal):g}"
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


def _check_thresholds(min_amplitude: float, significance: float) -> None:
  if not 0 <= min_amplitude < np.inf:
    raise ValueError(f"min_amplitude must be in [0, inf), got {min_amplitude}")
  if not 0 <= significance < 1 / DOUBT:
    raise ValueError(
      f"significance must be in [0, {1 / DOUBT}), got {significance}"
    )
