"""Dates the rise and the peak of a signal that rises and falls again.

Such signals are the curvature and the scalars that are compared with it. Each
is dated without reference to any other signal or to the transition.
"""

from typing import NamedTuple

import numpy as np
from scipy import signal as peaks

from induction_jax.transition.classification import Interval, Jump
from induction_jax.transition.detector import MIN_POINTS, detect

# The smallest prominence of a peak, as a share of the signal's range after its
# lowest point. Smaller peaks are fluctuations on the way up.
MIN_PROMINENCE = 0.5
# A measurement within this many noise standard deviations of the highest one
# may be the true peak.
PEAK_SIGMAS = 2.0
# Ratio of standard deviation to median absolute deviation of a normal variable.
_MAD = 1.4826


class Excursion(NamedTuple):
  """A signal's rise, and the peak that ends it."""

  status: str  # of the rise, as in `Transition`; none if the signal falls
  reason: str
  onset: Interval | None = None  # the 10 % point of the rise
  peak: Interval | None = None  # None if the signal still rises at the end


def date_excursion(steps: np.ndarray, signal: np.ndarray) -> Excursion:
  """Dates the first large rise of a signal and its peak.

  The peak is the first local maximum after the signal's lowest point whose
  prominence is at least half of the range after that point. `detect` dates the
  rise on the signal up to the peak, so that later excursions have no influence
  unless they are much larger than the first one. A rise with fewer than 20
  measurements up to the peak is `ambiguous`.

  The interval of the peak spans all measurements of the excursion after the
  onset that lie within two noise standard deviations of the peak, and their
  neighbours. The noise is estimated from differences before the onset, and
  taken as zero if there are fewer than ten.

  Args:
    steps: [N] steps of measurement, non-negative and increasing.
    signal: [N] the signal. Pass the logarithm of a positive signal such as an
      eigenvalue, and the negative of a dip.

  Raises:
    ValueError: if `detect` does not accept the arrays.
  """
  steps = np.asarray(steps, float)
  signal = np.asarray(signal, float)
  if len(signal) < MIN_POINTS or not np.all(np.isfinite(signal)):
    detect(steps, signal)  # raises the error that names the fault
  place = _find_peak(signal)
  last = len(signal) - 1 if place is None else place
  if last + 1 < MIN_POINTS:
    return Excursion(
      "ambiguous",
      f"{last + 1} measurements up to the peak, {MIN_POINTS} needed",
    )
  found = detect(steps[: last + 1], signal[: last + 1])
  rising = [jump for jump in found.jumps if jump.amplitude > 0]
  if not rising:
    if found.jumps:
      return Excursion("none", "the signal falls")
    return Excursion(found.status, found.reason)
  rise = rising[-1]  # the rise that leads to the peak
  peak = None if place is None else _peak_interval(steps, signal, place, rise)
  return Excursion(rise.status, rise.reason, rise.onset, peak)


def _find_peak(signal: np.ndarray) -> int | None:
  lowest = int(np.argmin(signal))
  after = signal[lowest:]
  prominence = MIN_PROMINENCE * np.ptp(after)
  if not prominence:
    return None
  found, _ = peaks.find_peaks(after, prominence=prominence)
  return lowest + int(found[0]) if len(found) else None


def _peak_interval(
  steps: np.ndarray, signal: np.ndarray, place: int, rise: Jump
) -> Interval:
  onset = steps[0] if rise.onset is None else rise.onset.estimate
  before = np.diff(signal[steps < onset])
  noise = 0.0
  if len(before) >= MIN_POINTS // 2:
    noise = _MAD * np.median(np.abs(before - np.median(before)))
  high_enough = signal >= signal[place] - PEAK_SIGMAS * noise
  candidates = np.flatnonzero(high_enough & (steps >= onset))
  # The excursion ends where the signal has fallen by half of its rise.
  half = (signal[place] + signal[:place].min()) / 2
  below = np.flatnonzero(signal[place:] < half)
  end = place + int(below[0]) if len(below) else len(signal) - 1
  candidates = candidates[candidates <= end]
  low = max(candidates[0] - 1, 0)
  high = min(candidates[-1] + 1, len(steps) - 1)
  return Interval(float(steps[low]), float(steps[place]), float(steps[high]))
