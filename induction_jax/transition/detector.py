"""When a learning curve jumps, with uncertainty, or that it does not.

A pure function of (steps, signal): pattern accuracy, prefix matching or
pattern loss, whichever the caller trusts. How often it is wrong is known:
experiments/calibrate_detector.py measures it.
"""

from typing import NamedTuple

import numpy as np

from induction_jax.transition import evidence, intervals, models

# A model with one jump and every part of a drift has nine parameters.
MIN_POINTS = 20
MAX_JUMPS = 3
# Fewer measurements than this on a level of a jump may be an outlier.
MIN_LEVEL_POINTS = 3
# Drifts whose BIC is this near the best one's also have a say in the
# intervals: which drift lies under a jump is rarely clear, and moves its ends.
RIVAL_BIC = 4.0
# By so much a fit whose jumps are high enough may be worse than one with a
# jump too low: beyond that the evidence against it is very strong (Kass and
# Raftery 1995).
HIGHER_BIC = 10.0
# Replicates of each bootstrap: p-values in units of 1 / 200.
REPLICATES = 199
# The level of a test, unless the caller has another. At 0.01 one jump in twenty
# of 30 % of the run and five noise sds is missed, at 0.02 one in fifty; false
# alarms keep below 0.05 in every cell of the calibration.
SIGNIFICANCE = 0.02
# Above `significance` and up to so many times it the answer is ambiguous.
DOUBT = 5.0

_THRESHOLDS = {
  "min_amplitude": (0.0, np.inf),
  "max_width": (0.0, 1.0),
  "max_ratio": (1.0, np.inf),
  "min_signal_to_noise": (0.0, np.inf),
  "min_share": (0.0, 1.0),
  "significance": (0.0, 1.0 / DOUBT),
  "confidence": (0.0, 1.0),
}
_ANSWERED = ("detected", "in_progress", "before_start")


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


class Gates(NamedTuple):
  """What a jump must be to count; see `detect`."""

  min_amplitude: float
  max_width: float
  max_ratio: float
  min_signal_to_noise: float
  min_share: float
  significance: float


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
    `significance` and at most five times it; or a jump has both its ends
    beyond the run, or fewer than 3 measurements on one of its levels;
  * `before_start`, `in_progress`: a jump whose onset lies before the first
    step, or whose completion lies after the last;
  * `detected`: otherwise.

  Two logistics whose 10-90 % bands overlap are the shape of one jump, and are
  not told apart. Amplitude counts only what was seen: the rise of the
  logistic from the first step to the last. A jump less than half of which was
  seen is an exponential, without a height or a midpoint: `midpoint` is then
  None, and the end that is given leans on the part seen. A jump that was over
  before the first step leaves a flat curve, which is `none`.

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
    changes nothing but the units. About 2 s for 400 points on one core.

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
  rivals, p_values = _add_jumps(curve, significance, min_share, rng)
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
  bounds = _bounds(curve, rivals, confidence, rng)
  jumps = [
    _make_jump(curve, best, height, gates, i, p_values[i], bounds[i])
    for i in range(best.model.jumps)
  ]
  main = min(jumps, key=_precedence)
  order = np.argsort(intervals.points(curve, best)[:, 1])
  return found._replace(
    **main._asdict(),
    jumps=tuple(jumps[i] for i in order if jumps[i].status in _ANSWERED),
  )


def _add_jumps(
  curve: models.Curve,
  significance: float,
  min_share: float,
  rng: np.random.Generator,
) -> tuple[list[models.Fit], list[float]]:
  """Fits of every drift with as many jumps as are needed, and their p-values.

  The best BIC first. A second or third jump counts only if it lies apart; a
  first is fitted even where it is merely doubtful.

  Beside one jump alone another looks like slow noise, in which neither is
  needed. So where none has been, a second and a third are looked for as if
  those before were, at half the significance: the evidence is then for all.
  """
  rivals, p_values = _fit_drifts(curve, 0, _null_starts()), [1.0]
  answer, level, needed = (rivals, p_values), significance, False
  for jumps in range(MAX_JUMPS):
    # Only the first jump's p-value is told where it is not needed.
    enough = level if jumps else 1.0
    found = evidence.search(
      curve, rivals[0], REPLICATES, rng, least=min_share, enough=enough
    )
    p_value = found.p_value
    if not jumps:
      answer = rivals, [p_value]
    if not len(found.starts) or (needed and p_value > level):
      return answer
    starts = [_with_jump(rivals[0], start) for start in found.starts]
    wider = _fit_drifts(curve, jumps + 1, starts, min_share)
    if jumps and _overlapping(intervals.points(curve, wider[0])):
      return answer
    if p_value <= level:
      p_values = (
        _match(curve, rivals[0], wider[0], p_values, p_value)
        if needed
        else [p_value] * (jumps + 1)
      )
      answer, level, needed = (wider, p_values), significance, True
    else:
      level = significance / 2
      if not jumps and p_value <= DOUBT * significance:
        answer = wider, [p_value]
    rivals = wider
  return answer


def _fit_drifts(
  curve: models.Curve,
  jumps: int,
  starts: list[np.ndarray],
  min_share: float = 0.0,
) -> list[models.Fit]:
  """One fit for each drift, the lowest BIC first; starts end in a power.

  Of those whose every jump is high enough to count, if one is about as likely
  as the likeliest: a line and one step of slow noise may fit a little better
  than a level and a wide jump, but are not what the test looked for.
  """
  without_power = np.unique([start[:-1] for start in starts], axis=0)
  fits = [
    models.fit(curve, models.Model(drift, jumps), start)
    for drift in models.DRIFTS
    for start in (starts if drift == "power" else without_power)
  ]
  likely = min(each.bic for each in fits) + HIGHER_BIC
  high = [
    each
    for each in fits
    if each.bic <= likely
    and np.all(np.abs(models.rises(curve, each)) >= min_share)
  ]
  best: dict[str, models.Fit] = {}
  for each in sorted(high or fits, key=lambda each: each.bic):
    best.setdefault(each.model.drift, each)
  return list(best.values())


def _null_starts() -> list[np.ndarray]:
  """Starts [rho, power] from several sides."""
  return [
    np.array([rho, power]) for rho in (0.1, 0.9) for power in (-1.0, 0.0, 1.0)
  ]


def _with_jump(fitted: models.Fit, start: np.ndarray) -> np.ndarray:
  """[rho, jumps so far, the new one, power] from [rho, jump, power]."""
  so_far = fitted.theta[1 : 1 + 2 * fitted.model.jumps]
  return np.concatenate([start[:1], so_far, start[1:]])


def _overlapping(points: np.ndarray) -> bool:
  """Whether any two of [jumps, (onset, midpoint, completion)] overlap."""
  ordered = points[np.argsort(points[:, 1])]
  return bool(np.any(ordered[1:, 0] < ordered[:-1, 2]))


def _match(
  curve: models.Curve,
  fewer: models.Fit,
  more: models.Fit,
  p_values: list[float],
  p_value: float,
) -> list[float]:
  """p-values of the jumps of `more`: a jump keeps its own, the new one new."""
  if not fewer.model.jumps:
    return [p_value]
  old = intervals.points(curve, fewer)[:, 1]
  new = intervals.points(curve, more)[:, 1]
  matched = [p_value] * len(new)
  for midpoint, known in zip(old, p_values):
    matched[int(np.argmin(np.abs(new - midpoint)))] = known
  return matched


def _bounds(
  curve: models.Curve,
  rivals: list[models.Fit],
  confidence: float,
  rng: np.random.Generator,
) -> np.ndarray:
  """[jumps, 4, 2]: low and high of the three points and of the width."""
  best = intervals.points(curve, rivals[0])[:, 1]
  plausible = []
  for fit in rivals:
    if fit.bic > rivals[0].bic + RIVAL_BIC:
      continue
    # Rivals may have found the same jumps in another order.
    order = [
      int(np.argmin(np.abs(intervals.points(curve, fit)[:, 1] - midpoint)))
      for midpoint in best
    ]
    bounds = intervals.estimate_intervals(
      curve, fit, REPLICATES, confidence, rng
    )
    plausible.append(bounds[order])
  low = np.min([each[..., 0] for each in plausible], axis=0)
  high = np.max([each[..., 1] for each in plausible], axis=0)
  return np.stack([low, high], axis=-1)


def _make_jump(
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
  if status not in _ANSWERED:
    return jump
  # A midpoint at the very end of the run is at its bound, not an estimate.
  inside = [
    p if curve.steps[0] < p.estimate < curve.steps[-1] else None for p in points
  ]
  return jump._replace(
    onset=inside[0], midpoint=inside[1], completion=inside[2]
  )


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
  if p_value > significance:
    return "ambiguous", f"p = {p_value:.3g} is above the significance"
  return None


def _acceptance(times: np.ndarray) -> tuple[str, str]:
  if times[2] > 1:
    return "in_progress", "completion lies beyond the last step"
  if times[0] < 0:
    return "before_start", "onset lies before the first step"
  return "detected", "every gate passed"


def _precedence(jump: Jump) -> tuple[int, float]:
  """Found before doubtful before refused; then the largest first."""
  rank = 0 if jump.status in _ANSWERED else 1 + (jump.status == "none")
  return rank, -abs(jump.amplitude)


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
