"""Something is happening: an alarm while a run goes on, to measure more.

A two-sided CUSUM (Page 1954) on a signal that is flat until something
happens. It dates nothing (see induction_jax.transition.detector for that); a
false alarm costs a few measurements.

The baseline is learnt from LEARN measurements in a row that stay within BAND of
their mean: mean, standard deviation and AR(1) correlation. From then on each
measurement's innovation, over its standard deviation, is summed up as far as
it exceeds DRIFT, upwards and downwards; a sum above THRESHOLD is an alarm. So
is a measurement outside the band while no baseline is known. An alarm stays on
until a new baseline is learnt, so for LEARN measurements after the signal has
last left the band.

The threshold is set by simulation (`find_threshold`): of the whole procedure,
learning included, for a signal in AR(1) noise of correlation CORRELATION, an
alarm comes once in ARL measurements, over runs of twice that length. Times are
far from exponential, for alarms come soon after a baseline that so short a
stretch shows too even: a quarter of the runs have one within 50 measurements,
half within 175, and 29 % have none in 1000. Stronger correlation makes it come
sooner: once in about 450 at 0.8 and 110 at 0.95; without any, once in about
2400. All that holds where the noise exceeds FLOOR, the least standard
deviation; below that alarms are rarer.
"""

from typing import NamedTuple

import numpy as np

LEARN = 20  # measurements that make a baseline
BAND = 0.1  # of the signal's own units, here attention
FLOOR = 0.005  # a baseline's least standard deviation, same units
DRIFT = 0.5  # half the shift to find soonest, in standard deviations
MAX_CORRELATION = 0.9
ARL = 1000  # measurements to a false alarm, wanted
CORRELATION = 0.5
THRESHOLD = 8.4  # find_threshold(), mean of three seeds


Numbers = np.ndarray | np.floating  # of many runs at once, or of one


class Baseline(NamedTuple):
  """A flat signal's mean, marginal standard deviation and correlation."""

  mean: np.ndarray  # [...]
  sd: np.ndarray  # [...]
  correlation: np.ndarray  # [...]


class Trigger(NamedTuple):
  """The state between two measurements, of float32 and int32 alone.

  So a checkpoint holds it without rounding. While `learnt` is below LEARN
  the baseline is not known, and the sums are 0.
  """

  alarm: np.int32  # 1 while something happens
  learnt: np.int32  # how many of `recent` count
  recent: np.ndarray  # float32 [LEARN], the stretch that is being learnt
  last: np.float32  # the newest measurement
  high: np.float32  # the CUSUM upwards, standard deviations
  low: np.float32  # the CUSUM downwards


def init_trigger() -> Trigger:
  """Before the first measurement: nothing learnt, no alarm."""
  count, number = np.int32(0), np.float32(0)
  recent = np.zeros(LEARN, np.float32)
  return Trigger(count, count, recent, number, number, number)


def update(state: Trigger, value: float) -> Trigger:
  """The state after one more measurement.

  Raises:
    ValueError: if the value is not finite.
  """
  if not np.isfinite(value):
    raise ValueError(f"the trigger's signal must be finite, got {value}")
  known = state.learnt == LEARN
  state = _watch(state, value) if known else _learn(state, value)
  return state._replace(last=np.float32(value))


def fit_baseline(stretch: np.ndarray, floor: float = FLOOR) -> Baseline:
  """The baseline of flat stretches [..., N]; correlations from 0 up."""
  mean = stretch.mean(axis=-1)
  apart = stretch - mean[..., None]
  square = np.sum(apart**2, axis=-1)
  product = np.sum(apart[..., 1:] * apart[..., :-1], axis=-1)
  tiny = np.finfo(float).tiny  # a constant stretch has no correlation
  return Baseline(
    mean=mean,
    sd=np.maximum(np.sqrt(square / (stretch.shape[-1] - 1)), floor),
    correlation=np.clip(product / (square + tiny), 0.0, MAX_CORRELATION),
  )


def innovation(baseline: Baseline, last: Numbers, value: Numbers) -> np.ndarray:
  """What the measurement before does not explain, in its own deviations."""
  mean, sd, correlation = baseline
  change = (value - mean) - correlation * (last - mean)
  return change / (sd * np.sqrt(1 - correlation**2))


def add(
  high: Numbers, low: Numbers, standard: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Both sums after one more standardised innovation (Page 1954)."""
  return (
    np.maximum(0.0, high + standard - DRIFT),
    np.maximum(0.0, low - standard - DRIFT),
  )


def simulate_peaks(
  length: int,
  runs: int = 2000,
  correlation: float = CORRELATION,
  known: bool = False,
  seed: int = 0,
) -> np.ndarray:
  """The larger sum's maximum so far, where nothing happens, [length, runs].

  Args:
    length: measurements after the baseline is learnt.
    runs: how many to simulate; the cost is linear in both.
    correlation: of the AR(1) noise.
    known: whether the baseline is the true one in place of a learnt one.
    seed: of the noise.
  """
  rng = np.random.default_rng(seed)
  noise = rng.standard_normal((LEARN + length, runs))
  noise[1:] *= np.sqrt(1 - correlation**2)
  for i in range(1, len(noise)):
    noise[i] += correlation * noise[i - 1]
  baseline = fit_baseline(noise[:LEARN].T, floor=0.0)
  if known:
    baseline = Baseline(*map(np.asarray, (0.0, 1.0, correlation)))
  high, low = np.zeros(runs), np.zeros(runs)
  peaks = np.empty((length, runs))
  for i in range(length):
    last, value = noise[LEARN + i - 1 : LEARN + i + 1]
    high, low = add(high, low, innovation(baseline, last, value))
    peaks[i] = np.maximum(high, low)
  return np.maximum.accumulate(peaks, axis=0)


def mean_run_length(peaks: np.ndarray, threshold: float) -> float:
  """Measurements to an alarm: all that were watched, over all alarms.

  Runs that end without one count with their length, as of an exponential
  that is cut off.
  """
  quiet = np.sum(peaks <= threshold, axis=0)
  fired = quiet < len(peaks)
  return float(np.sum(quiet + fired) / max(np.sum(fired), 1))


def find_threshold(arl: float = ARL, seed: int = 0) -> float:
  """The threshold whose mean run length is `arl`, in runs cut at twice that.

  To 1 % of itself for the draws of `seed`; about 4 % between seeds. Some
  seconds.
  """
  peaks = simulate_peaks(2 * int(arl), seed=seed)
  low, high = 0.0, 100.0
  while high - low > 0.01 * high:
    middle = (low + high) / 2
    short = mean_run_length(peaks, middle) < arl
    low, high = (middle, high) if short else (low, middle)
  return high


def _watch(state: Trigger, value: float) -> Trigger:
  baseline = fit_baseline(state.recent.astype(np.float64))
  standard = innovation(baseline, np.float64(state.last), np.float64(value))
  high, low = add(state.high, state.low, standard)
  if max(high, low) > THRESHOLD:
    return _learn_anew(state, value)
  return state._replace(high=np.float32(high), low=np.float32(low))


def _learn(state: Trigger, value: float) -> Trigger:
  n = int(state.learnt)
  stretch = np.append(state.recent[:n], np.float32(value))
  if np.abs(value - stretch.mean(dtype=np.float64)) > BAND:
    return _learn_anew(state, value)
  recent = np.append(stretch, state.recent[n + 1 :])
  done = n + 1 == LEARN
  return state._replace(
    alarm=np.int32(0 if done else state.alarm),
    learnt=np.int32(n + 1),
    recent=recent,
  )


def _learn_anew(state: Trigger, value: float) -> Trigger:
  """Alarm: what was the baseline is no more."""
  start = init_trigger()
  recent = start.recent.copy()
  recent[0] = value
  return start._replace(
    alarm=np.int32(1), learnt=np.int32(1), recent=recent, last=state.last
  )
