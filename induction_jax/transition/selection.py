"""How many jumps a curve needs, and over which drift."""

import numpy as np

from induction_jax.transition import curves, evidence, intervals
from induction_jax.transition.evidence import MIN_SHARE

MAX_JUMPS = 3
# A fit whose jumps are all high enough may have a BIC larger by this much than
# a fit with a lower jump. A larger difference is very strong evidence against
# it (Kass and Raftery 1995).
HIGHER_BIC = 10.0
# A p-value of up to this many times the level leaves the result ambiguous.
DOUBT = 5.0


def select_jumps(
  curve: curves.Curve, significance: float, rng: np.random.Generator
) -> tuple[list[curves.Fit], list[float]]:
  """Fits every drift with the number of jumps that the tests support.

  A second or third jump counts only if it does not overlap another one. A
  first jump whose p-value is at most DOUBT times the level is fitted too.

  Two similar jumps can hide each other: in a model with only the first, the
  second looks like slow noise, and neither is significant. If the first test
  does not reject, a second and third jump are therefore still tested, at half
  the level, and a rejection supports all of them together.

  Returns:
    The fits, one for each drift, lowest BIC first; and the p-value of each
    jump of the first fit.
  """
  rivals, p_values = _fit_drifts(curve, 0, _null_starts()), [1.0]
  selected, level, needed = (rivals, p_values), significance, False
  for jumps in range(MAX_JUMPS):
    # Only the first p-value is reported when the test does not reject.
    enough = level if jumps else 1.0
    found = evidence.search(curve, rivals[0], rng, enough=enough)
    p_value = found.p_value
    if not jumps:
      selected = rivals, [p_value]
    if not len(found.starts) or (needed and p_value > level):
      return selected
    starts = [_with_jump(rivals[0], start) for start in found.starts]
    wider = _fit_drifts(curve, jumps + 1, starts)
    if jumps and _overlapping(intervals.points(curve, wider[0])):
      return selected
    if p_value <= level:
      p_values = (
        _match(curve, rivals[0], wider[0], p_values, p_value)
        if needed
        else [p_value] * (jumps + 1)
      )
      selected, level, needed = (wider, p_values), significance, True
    else:
      level = significance / 2
      if not jumps and p_value <= DOUBT * significance:
        selected = wider, [p_value]
    rivals = wider
  return selected


def _fit_drifts(
  curve: curves.Curve,
  jumps: int,
  starts: list[np.ndarray],
) -> list[curves.Fit]:
  """The best fit for each drift, lowest BIC first; starts end in a power.

  Fits with a jump below MIN_SHARE are left out if another fit has nearly the
  same BIC. A line plus one step of slow noise may fit a little better than a
  constant plus a wide jump, but is not what the test looked for.
  """
  without_power = np.unique([start[:-1] for start in starts], axis=0)
  fits = [
    curves.fit(curve, curves.CurveModel(drift, jumps), start)
    for drift in curves.DRIFTS
    for start in (starts if drift == "power" else without_power)
  ]
  likely = min(each.bic for each in fits) + HIGHER_BIC
  high = [
    each
    for each in fits
    if each.bic <= likely
    and np.all(np.abs(curves.rises(curve, each)) >= MIN_SHARE)
  ]
  best: dict[str, curves.Fit] = {}
  for each in sorted(high or fits, key=lambda each: each.bic):
    best.setdefault(each.model.drift, each)
  return list(best.values())


def _null_starts() -> list[np.ndarray]:
  """Starting points [rho, power] for fits without a jump."""
  return [
    np.array([rho, power]) for rho in (0.1, 0.9) for power in (-1.0, 0.0, 1.0)
  ]


def _with_jump(fitted: curves.Fit, start: np.ndarray) -> np.ndarray:
  """[rho, present jumps, new jump, power] from [rho, new jump, power]."""
  present = fitted.theta[1 : 1 + 2 * fitted.model.jumps]
  return np.concatenate([start[:1], present, start[1:]])


def _overlapping(points: np.ndarray) -> bool:
  """Whether the 10-90 % bands of any two jumps [jumps, points] overlap."""
  ordered = points[np.argsort(points[:, 1])]
  return bool(np.any(ordered[1:, 0] < ordered[:-1, 2]))


def _match(
  curve: curves.Curve,
  fewer: curves.Fit,
  more: curves.Fit,
  p_values: list[float],
  p_value: float,
) -> list[float]:
  """p-values of the jumps of `more`: those of `fewer`, and the new one's."""
  if not fewer.model.jumps:
    return [p_value]
  old = intervals.points(curve, fewer)[:, 1]
  new = intervals.points(curve, more)[:, 1]
  matched = [p_value] * len(new)
  for midpoint, known in zip(old, p_values):
    matched[int(np.argmin(np.abs(new - midpoint)))] = known
  return matched
