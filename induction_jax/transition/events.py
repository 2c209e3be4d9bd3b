"""Events of a signal that rises and falls again: when it leaves, when it peaks.

For curvature and the scalars beside it, each dated by itself: nothing here
knows when behaviour changes.
"""

from typing import NamedTuple

import numpy as np
from scipy import signal as peaks

from induction_jax.transition.answers import Interval, Jump
from induction_jax.transition.detector import MIN_POINTS, detect

# A peak must stand out by this share of the signal's range, from its lowest
# point on; lesser ones are on the way.
MIN_PROMINENCE = 0.5
# Measurements this many noise sds below the peak's could have been it.
PEAK_SIGMAS = 2.0
# Of a normal variable: standard deviation over median absolute deviation.
_MAD = 1.4826


class Excursion(NamedTuple):
  """A signal's rise, and the peak that ends it."""

  status: str  # of the rise, as of `detect`; none if the signal falls
  reason: str
  onset: Interval | None = None  # of the rise
  peak: Interval | None = None  # None if it was still rising at the end


def date_excursion(steps: np.ndarray, signal: np.ndarray) -> Excursion:
  """Dates a signal's first large rise and its peak.

  The peak is the first local maximum, after the signal's lowest point, that
  stands out by half of the range from there on. What comes later (a second
  excursion, swings) plays no part unless it dwarfs the first: the rise is
  dated by `detect` on the signal up to the peak, of which its onset is the
  10 % point. The peak's interval reaches over all measurements since the onset
  that are within two noise sds of it (noise from differences before the onset;
  taken as none where there are fewer than ten) and the ones next to these.

  Args:
    steps: [N], as of `detect`.
    signal: [N]; a positive one, such as an eigenvalue, as its logarithm, a
      dip with its sign changed.

  Raises:
    ValueError: as `detect`; a rise with fewer than 20 measurements up to its
      peak is `ambiguous`.
  """
  steps = np.asarray(steps, float)
  signal = np.asarray(signal, float)
  if len(signal) < MIN_POINTS or not np.all(np.isfinite(signal)):
    detect(steps, signal)  # which says what is wrong
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
  rise = rising[-1]  # the one that leads to the peak
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
  # Not beyond the excursion: up to where the signal is half way down again.
  half = (signal[place] + signal[:place].min()) / 2
  below = np.flatnonzero(signal[place:] < half)
  end = place + int(below[0]) if len(below) else len(signal) - 1
  candidates = candidates[candidates <= end]
  low = max(candidates[0] - 1, 0)
  high = min(candidates[-1] + 1, len(steps) - 1)
  return Interval(float(steps[low]), float(steps[place]), float(steps[high]))
