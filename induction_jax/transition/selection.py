"""How many jumps a curve needs, and of which drift they are taken."""

import numpy as np

from induction_jax.transition import evidence, intervals, models

MAX_JUMPS = 3
# By so much a fit whose jumps are high enough may be worse than one with a
# jump too low: beyond that the evidence against it is very strong (Kass and
# Raftery 1995).
HIGHER_BIC = 10.0
# Above its level and up to so many times it a test leaves doubt.
DOUBT = 5.0


def select_jumps(
  curve: models.Curve,
  significance: float,
  min_share: float,
  replicates: int,
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
      curve, rivals[0], replicates, rng, least=min_share, enough=enough
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
