"""When it happens over many runs, some of which ended before it did.

A run whose transition had not come by its end says that it comes later, not
that it never does, nor nothing at all: dropping it makes the rest look early.
Here it is right-censored (Kaplan and Meier 1958).
"""

import warnings
from typing import NamedTuple

import numpy as np
from scipy import stats

# Products of fractions come out a rounding above a half that is exact.
_ROUNDING = 1e-9


class Survival(NamedTuple):
  """Share of runs in which it has not happened, after each time."""

  times: np.ndarray  # [E], ascending, of events and of censoring
  share: np.ndarray  # [E]
  low: np.ndarray  # [E], pointwise confidence limits
  high: np.ndarray  # [E]


class Spread(NamedTuple):
  """Quantiles of the time; None where it was not seen in enough runs.

  Attributes:
    runs: that say anything of it.
    seen: of those, in which it was seen.
    earliest: the first of the times seen.
    lower_quartile: by when a quarter of the runs had it.
    median: by when half of them had.
    median_low: lower limit of the median.
    median_high: upper limit of the median; None is without bound.
    upper_quartile: by when three quarters had.
    latest: the last of the times seen.
  """

  runs: int
  seen: int
  earliest: float | None
  lower_quartile: float | None
  median: float | None
  median_low: float | None
  median_high: float | None
  upper_quartile: float | None
  latest: float | None


def survival(
  times: np.ndarray, seen: np.ndarray, confidence: float = 0.95
) -> Survival:
  """The Kaplan-Meier curve with limits on the log-log scale.

  Assumes that when a run ends has nothing to do with when it would have
  happened, as where all runs are of one length.

  Args:
    times: [N] when it happened, or until when it had not.
    seen: [N] bool, which of the two; true at least once.
    confidence: of the limits, from Greenwood's variance (Kalbfleisch and
      Prentice 1980), pointwise. After the last run's event both are 0.

  Raises:
    ValueError: if it was seen in no run, or the lengths differ.
  """
  times, seen = np.asarray(times, float), np.asarray(seen, bool)
  if times.shape != seen.shape or times.ndim != 1 or not seen.any():
    raise ValueError(
      "times and seen must be vectors of equal length with one time seen, got "
      f"shapes {times.shape} and {seen.shape}, {seen.sum()} seen"
    )
  curve = stats.ecdf(stats.CensoredData.right_censored(times, ~seen)).sf
  with warnings.catch_warnings():
    # At shares of 1 and 0 the log-log scale ends; filled in below.
    warnings.simplefilter("ignore", RuntimeWarning)
    limits = curve.confidence_interval(confidence, method="log-log")
  share = np.asarray(curve.probabilities)
  low, high = (
    np.where(np.isfinite(limit.probabilities), limit.probabilities, share)
    for limit in (limits.low, limits.high)
  )
  return Survival(np.asarray(curve.quantiles), share, low, high)


def spread(
  times: np.ndarray, seen: np.ndarray, confidence: float = 0.95
) -> Spread:
  """Quantiles of a time over runs, censored ones counted.

  A quantile is the first time by which that share of the runs had it. The
  median's limits are the times at which the curve's limits pass a half
  (Brookmeyer and Crowley 1982).

  Args:
    times: [N] as in survival; empty is allowed, and none seen.
    seen: [N] bool.
    confidence: of the median's limits.
  """
  times, seen = np.asarray(times, float), np.asarray(seen, bool)
  if not seen.any():
    return Spread(len(times), 0, *[None] * 7)
  curve = survival(times, seen, confidence)

  def first(shares: np.ndarray, share: float) -> float | None:
    past = np.flatnonzero(shares <= share + _ROUNDING)
    return float(curve.times[past[0]]) if past.size else None

  return Spread(
    runs=len(times),
    seen=int(seen.sum()),
    earliest=float(times[seen].min()),
    lower_quartile=first(curve.share, 0.75),
    median=first(curve.share, 0.5),
    median_low=first(curve.low, 0.5),
    median_high=first(curve.high, 0.5),
    upper_quartile=first(curve.share, 0.25),
    latest=float(times[seen].max()),
  )
