"""An online change detector that asks for denser measurements during a run.

It is a two-sided CUSUM (Page 1954) on a signal that is flat until a change. It
dates nothing, which is the task of induction_jax.transition.detector. A false
alarm costs a few extra measurements.

The baseline (mean, standard deviation and AR(1) correlation) is estimated from
LEARN consecutive measurements that stay within BAND of their mean. From then
on the standardised innovations of the measurements are accumulated in two
sums, one upwards and one downwards, each reduced by DRIFT per measurement and
never below 0. A sum above THRESHOLD raises an alarm. While no baseline is
known, a measurement outside the band raises one. An alarm lasts until a new
baseline has been estimated, which is LEARN measurements after the signal last
left the band.

`find_threshold` sets the threshold by simulating the procedure, estimation of
the baseline included, on AR(1) noise of correlation CORRELATION: the mean run
length to a false alarm is ARL measurements, over runs of twice that length.
The run lengths are far from exponential, because a short stretch can
underestimate the noise and then cause an early alarm. A quarter of the runs
have an alarm within 50 measurements, half within 175, and 29 % have none in
1000. The mean run length is about 2400 without correlation, 450 at a
correlation of 0.8 and 110 at 0.95. These figures hold if the noise exceeds
FLOOR, the smallest standard deviation of a baseline. Weaker noise raises fewer
alarms.
"""

from typing import NamedTuple

import numpy as np

LEARN = 20  # measurements in a baseline
BAND = 0.1  # in units of the signal, which is attention here
FLOOR = 0.005  # smallest standard deviation of a baseline, in the same units
DRIFT = 0.5  # half of the shift to detect fastest, in standard deviations
MAX_CORRELATION = 0.9
ARL = 1000  # intended mean number of measurements to a false alarm
CORRELATION = 0.5  # of the simulated noise
RUNS = 2000  # simulated runs
THRESHOLD = 8.4  # find_threshold(), mean of three seeds

Numbers = np.ndarray | np.floating  # many simulated runs at once, or one run


class Baseline(NamedTuple):
  """Mean, marginal standard deviation and correlation of a flat signal."""

  mean: np.ndarray  # [...]
  sd: np.ndarray  # [...]
  correlation: np.ndarray  # [...]


class Trigger(NamedTuple):
  """The detector's state between two measurements.

  It holds only float32 and int32, so that a checkpoint stores it without
  rounding. While `learnt` is below LEARN the baseline is not known, and both
  sums are 0.
  """

  alarm: np.int32  # 1 during an alarm
  learnt: np.int32  # number of valid entries of `recent`
  recent: np.ndarray  # float32 [LEARN], measurements of the baseline
  last: np.float32  # the newest measurement
  high: np.float32  # upward CUSUM, in standard deviations
  low: np.float32  # downward CUSUM


def init_trigger() -> Trigger:
  """The state before the first measurement, without baseline or alarm."""
  count, number = np.int32(0), np.float32(0)
  recent = np.zeros(LEARN, np.float32)
  return Trigger(count, count, recent, number, number, number)


def update(state: Trigger, value: float) -> Trigger:
  """Returns the state after one more measurement.

  Raises:
    ValueError: if the value is not finite.
  """
  if not np.isfinite(value):
    raise ValueError(f"the trigger's signal must be finite, got {value}")
  known = state.learnt == LEARN
  state = _watch(state, value) if known else _learn(state, value)
  return state._replace(last=np.float32(value))


def fit_baseline(stretch: np.ndarray, floor: float = FLOOR) -> Baseline:
  """Estimates the baseline of flat stretches [..., N]."""
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
  """The standardised innovation of a measurement, given the previous one."""
  mean, sd, correlation = baseline
  change = (value - mean) - correlation * (last - mean)
  return change / (sd * np.sqrt(1 - correlation**2))


def add(
  high: Numbers, low: Numbers, standard: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Both CUSUMs after one more standardised innovation (Page 1954)."""
  return (
    np.maximum(0.0, high + standard - DRIFT),
    np.maximum(0.0, low - standard - DRIFT),
  )


def simulate_peaks(
  length: int,
  correlation: float = CORRELATION,
  known: bool = False,
  seed: int = 0,
) -> np.ndarray:
  """Simulates the running maximum of the larger CUSUM without any change.

  Args:
    length: number of measurements after the baseline.
    correlation: of the AR(1) noise.
    known: whether to use the true baseline instead of an estimated one.
    seed: of the noise.

  Returns:
    Running maxima [length, RUNS].
  """
  rng = np.random.default_rng(seed)
  noise = rng.standard_normal((LEARN + length, RUNS))
  noise[1:] *= np.sqrt(1 - correlation**2)
  for i in range(1, len(noise)):
    noise[i] += correlation * noise[i - 1]
  baseline = fit_baseline(noise[:LEARN].T, floor=0.0)
  if known:
    baseline = Baseline(*map(np.asarray, (0.0, 1.0, correlation)))
  high, low = np.zeros(RUNS), np.zeros(RUNS)
  peaks = np.empty((length, RUNS))
  for i in range(length):
    last, value = noise[LEARN + i - 1 : LEARN + i + 1]
    high, low = add(high, low, innovation(baseline, last, value))
    peaks[i] = np.maximum(high, low)
  return np.maximum.accumulate(peaks, axis=0)


def mean_run_length(peaks: np.ndarray, threshold: float) -> float:
  """The mean number of measurements to an alarm.

  It is the number of all measurements over the number of alarms, the
  maximum-likelihood estimate for an exponential that is censored at the end of
  the run.
  """
  quiet = np.sum(peaks <= threshold, axis=0)
  fired = quiet < len(peaks)
  return float(np.sum(quiet + fired) / max(np.sum(fired), 1))


def find_threshold(seed: int = 0) -> float:
  """Finds the threshold whose mean run length is ARL, by bisection.

  It is found to within 1 % for one simulation of runs of length 2 ARL. It
  varies by about 4 % between seeds of the simulation. The search takes some
  seconds.
  """
  peaks = simulate_peaks(2 * ARL, seed=seed)
  low, high = 0.0, 100.0
  while high - low > 0.01 * high:
    middle = (low + high) / 2
    short = mean_run_length(peaks, middle) < ARL
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
  """Raises the alarm and starts a new baseline with this measurement."""
  start = init_trigger()
  recent = start.recent.copy()
  recent[0] = value
  return start._replace(
    alarm=np.int32(1), learnt=np.int32(1), recent=recent, last=state.last
  )
