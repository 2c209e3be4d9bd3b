"""The distribution of an event's time over runs, with right-censoring.

A run that ended before its transition shows that the transition comes later
than that step. Leaving such runs out would bias the times downwards, so they
count as right-censored (Kaplan and Meier 1958).
"""

import warnings
from typing import NamedTuple

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
# Products of fractions can exceed an exact quantile by a rounding error.
_ROUNDING = 1e-9


class Survival(NamedTuple):
  """The share of runs in which the event has not happened, over time."""

  times: np.ndarray  # [E], ascending times of events and of censoring
  share: np.ndarray  # [E], directly after each time
  low: np.ndarray  # [E], pointwise 95 % confidence limits
  high: np.ndarray  # [E]


class Spread(NamedTuple):
  """Quantiles of an event's time; None where too few runs had the event.

  Attributes:
    runs: number of runs, censored ones included.
    seen: number of runs in which the event was seen.
    earliest: first of the times seen.
    lower_quartile: time by which a quarter of the runs had the event.
    median: time by which half of the runs had the event.
    median_low: lower 95 % confidence limit of the median.
    median_high: upper limit of the median; None if it is unbounded.
    upper_quartile: time by which three quarters of the runs had the event.
    latest: last of the times seen.
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


def survival(times: np.ndarray, seen: np.ndarray) -> Survival:
  """Estimates the Kaplan-Meier curve with pointwise confidence limits.

  The limits come from Greenwood's variance on the log-log scale (Kalbfleisch
  and Prentice 1980). Both are 0 once every run has had the event. Censoring is
  assumed to be independent of the event, as it is if all runs are equally
  long.

  Args:
    times: [N] step of the event, or the last step at which it had not happened.
    seen: [N] bool, whether the event was seen; true at least once.

  Raises:
    ValueError: if the event was seen in no run, or the lengths differ.
  """
  times, seen = np.asarray(times, float), np.asarray(seen, bool)
  if times.shape != seen.shape or times.ndim != 1 or not seen.any():
    raise ValueError(
      "times and seen must be vectors of equal length with one time seen, got "
      f"shapes {times.shape} and {seen.shape}, {seen.sum()} seen"
    )
  curve = stats.ecdf(stats.CensoredData.right_censored(times, ~seen)).sf
  with warnings.catch_warnings():
    # The log-log scale is undefined at shares of 1 and 0. The limits there
    # are filled in below.
    warnings.simplefilter("ignore", RuntimeWarning)
    limits = curve.confidence_interval(CONFIDENCE, method="log-log")
  share = np.asarray(curve.probabilities)
  low, high = (
    np.where(np.isfinite(limit.probabilities), limit.probabilities, share)
    for limit in (limits.low, limits.high)
  )
  return Survival(np.asarray(curve.quantiles), share, low, high)


def spread(times: np.ndarray, seen: np.ndarray) -> Spread:
  """Quantiles of an event's time over runs, with right-censoring.

  A quantile is the first time by which that share of the runs had the event.
  The limits of the median are the times at which the limits of the
  Kaplan-Meier curve pass one half (Brookmeyer and Crowley 1982).

  Args:
    times: [N] step of the event, or the last step at which it had not happened.
    seen: [N] bool, whether the event was seen. It may be seen in no run, and N
      may be 0.
  """
  times, seen = np.asarray(times, float), np.asarray(seen, bool)
  if not seen.any():
    return Spread(len(times), 0, *[None] * 7)
  curve = survival(times, seen)

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
