"""When a learning curve jumps, with uncertainty, or that it does not.

A pure function of (steps, signal): pattern accuracy, prefix matching or
pattern loss, whichever the caller trusts. How often it is wrong is known:
experiments/calibrate_detector.py measures it.
"""

import numpy as np

from induction_jax.transition import intervals, models
from induction_jax.transition.answers import Transition
from induction_jax.transition.judgement import (
  ANSWERED,
  Gates,
  judge,
  precedence,
)
from induction_jax.transition.selection import DOUBT, select_jumps

# A model with one jump and every part of a drift has nine parameters.
MIN_POINTS = 20
# Replicates of each bootstrap: p-values in units of 1 / 200.
REPLICATES = 199
# The level of a test, unless the caller has another. At 0.01 one jump in twenty
# of 30 % of the run and five noise sds is missed, at 0.02 one in fifty; false
# alarms keep below 0.05 in every cell of the calibration.
SIGNIFICANCE = 0.02

_THRESHOLDS = {
  "min_amplitude": (0.0, np.inf),
  "max_width": (0.0, 1.0),
  "max_ratio": (1.0, np.inf),
  "min_signal_to_noise": (0.0, np.inf),
  "min_share": (0.0, 1.0),
  "significance": (0.0, 1.0 / DOUBT),
  "confidence": (0.0, 1.0),
}


def detect(
  steps: np.ndarray,
  signal: np.ndarray,
  *,
  min_amplitude: float = 0.0,
  max_width: float = 0.35,
  max_ratio: float = 4.0,
  min_signal_to_noise: float = 2.0,
  min_share: float = 0.25,
  significance: float = SIGNIFICANCE,
  confidence: float = 0.95,
  log_time: bool = False,
  seed: int = 0,
) -> Transition:
  """Finds the abrupt changes of a learning curve, rising or falling.

  A drift (constant, linear, or a power law of the step) gets logistic jumps,
  one at a time and up to three, in AR(1) noise, while a parametric bootstrap
  of the likelihood ratio says that one more is needed. Where not even the first
  is, two or three together may be, at half the significance each. The answer is

  * `none`: none is needed (p above `significance`); or none is high enough
    (`min_amplitude`, `min_signal_to_noise`, `min_share`) and abrupt
    (`max_width`, `max_ratio`), which is what ramps and broken power laws come
    to;
  * `ambiguous`: the first jump passes those gates, but p is above
    `significance` (half of it for a jump with an end beyond the run, which a
    bend of the drift resembles most) and at most five times it; or a jump has
    both its ends beyond the run, or fewer than 3 measurements on one of its
    levels;
  * `before_start`, `in_progress`: a jump whose onset lies before the first
    step, or whose completion lies after the last;
  * `detected`: otherwise.

  Two logistics whose 10-90 % bands overlap are the shape of one jump, and are
  not told apart. Amplitude counts only what was seen: the rise of the
  logistic from the first step to the last. A jump less than half of which was
  seen is an exponential, without a height or a midpoint: `midpoint` is then
  None, and the end that is given leans on the part seen. A jump that was over
  before the first step leaves a flat curve, which is `none`.

  The noise is taken for Gaussian. One wild measurement amid the run, several
  times as far out as the jump is high, may be dated in its place: it stretches
  the range of which `min_share` is a part. Look at the curve, or leave it out.

  The intervals are those of `estimate_intervals`; they span those of every
  drift within 4 of the best BIC, and cover at least the two measurements
  around the estimate. They take the logistic for true. On an asymmetric curve
  (a slow start and a sharp stop, or a long tail) the misfit goes into the
  autocorrelation, the fit follows the steepest part, and onset and completion
  lie symmetrically around it: the end at the slower side comes too near, the
  one at the sharper side too far.

  Args:
    steps: [N] steps of measurement, non-negative, increasing. They may be
      uneven: noise is then correlated as rho^(gap / median gap), so that a
      dense stretch does not count as many independent measurements.
    signal: [N] the curve, in any units.
    min_amplitude: the smallest jump of interest, in units of the signal.
    max_width: the widest jump, 10-90 %, as a fraction of last - first step
      (of their logarithms with `log_time`); a jump is refused where the lower
      end of what its width may be is above it.
    max_ratio: of completion to onset, at most: what takes longer than three
      times the time before it is no abrupt change. Both count from one median
      gap before step 0, and an onset before the first step counts as there.
    min_signal_to_noise: the smallest amplitude in marginal noise sds.
    min_share: the smallest amplitude as a share of the signal's range. Lower
      jumps are not even looked for: they are noise, or drift.
    significance: the level of each test for a further jump. Below 0.01 jumps
      that are needed only together cannot be: p is at least 1 / 200.
    confidence: nominal coverage of the intervals.
    log_time: jumps are logistic in log(step + median gap).
    seed: of the bootstraps.

  Returns:
    A Transition. Scaling or shifting the signal (and `min_amplitude` with it)
    changes nothing but the units. Half a second for 400 points on one core.

  Raises:
    ValueError: for arrays of unequal length, fewer than 20 points, values
      that are masked, not finite or not real, steps that do not increase or are
      negative, or a threshold out of range.
  """
  steps, signal = _check_curve(steps, signal)
  gates = Gates(
    min_amplitude=min_amplitude,
    max_width=max_width,
    max_ratio=max_ratio,
    min_signal_to_noise=min_signal_to_noise,
    min_share=min_share,
    significance=significance,
  )
  _check_thresholds(confidence=confidence, **gates._asdict())
  height = np.ptp(signal)
  if height <= 1e-12 * np.max(np.abs(signal)):
    return Transition("none", "the signal is constant")
  curve = models.make_curve(steps, signal, log_time)
  rng = np.random.default_rng(seed)
  rivals, p_values = select_jumps(
    curve, significance, min_share, REPLICATES, rng
  )
  best = rivals[0]
  found = Transition(
    reason="no jump of min_share is needed",
    p_value=p_values[0],
    noise_sd=float(height * best.noise_sd),
    autocorrelation=float(best.theta[0]),
    drift=best.model.drift,
  )
  if not best.model.jumps:
    return found
  bounds = intervals.span_rivals(curve, rivals, REPLICATES, confidence, rng)
  jumps = [
    judge(curve, best, height, gates, i, p_values[i], bounds[i])
    for i in range(best.model.jumps)
  ]
  main = min(jumps, key=precedence)
  order = np.argsort(intervals.points(curve, best)[:, 1])
  return found._replace(
    **main._asdict(),
    jumps=tuple(jumps[i] for i in order if jumps[i].status in ANSWERED),
  )


def _check_curve(
  steps: np.ndarray, signal: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  if np.ma.is_masked(steps) or np.ma.is_masked(signal):
    raise ValueError("steps and signal must not be masked: leave such out")
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


def _check_thresholds(**thresholds: float) -> None:
  for name, value in thresholds.items():
    low, high = _THRESHOLDS[name]
    if not low <= value < high:
      raise ValueError(f"{name} must be in [{low}, {high}), got {value}")
