"""Whether an event precedes the transition, over many seeds.

A lead is the step of the transition minus the step of the event, and is
positive if the event comes first. Leads are taken within a seed, so that
variation between seeds which affects both dates cancels.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

CONFIDENCE = 0.95  # of the intervals
RESAMPLES = 9999
SEED = 0  # of the resampling
WINDOW = 15  # measurements before each one, to which a line is fitted


class Lead(NamedTuple):
  """How much earlier than the transition an event comes.

  Attributes:
    n_seeds: seeds with a dated transition.
    n_dated: seeds among these with a dated event. Every attribute below is
      computed over them.
    median: median lead in steps; None if no seed is dated.
    low: lower end of its 95 % bootstrap interval; None if no seed is dated.
    high: upper end of that interval.
    p_value: of the two-sided signed-rank test (Wilcoxon 1945) that leads are
      symmetric about 0; 1 if no seed is dated.
    corrected: the p-value corrected for the number of events (Holm 1979).
  """

  n_seeds: int
  n_dated: int
  median: float | None
  low: float | None
  high: float | None
  p_value: float
  corrected: float


def compare(
  transition: Sequence[float | None],
  events: Mapping[str, Sequence[float | None]],
) -> dict[str, Lead]:
  """Computes the lead of every event over the transition.

  The intervals are percentiles over resampled seeds (Efron 1979).

  Args:
    transition: [N] step of the transition in each seed. None if it was not
      dated; such seeds are left out.
    events: name -> [N] step of the event in each seed, or None.

  Raises:
    ValueError: if an event does not have one entry for each seed, or fewer
      than two seeds have a transition.
  """
  leads = {}
  for name, times in events.items():
    if len(times) != len(transition):
      raise ValueError(
        f"event {name!r} must have one time for each of the "
        f"{len(transition)} seeds, got {len(times)}"
      )
    leads[name] = np.array(
      [
        start - time
        for start, time in zip(transition, times)
        if start is not None and time is not None
      ]
    )
  n_seeds = sum(start is not None for start in transition)
  if n_seeds < 2:
    raise ValueError(f"at least 2 seeds need a transition, got {n_seeds}")
  p_values = {name: _signed_rank(lead) for name, lead in leads.items()}
  corrected = holm(np.array(list(p_values.values())))
  rng = np.random.default_rng(SEED)
  return {
    name: Lead(
      n_seeds,
      len(lead),
      *_median(lead, rng),
      p_values[name],
      float(corrected[i]),
    )
    for i, (name, lead) in enumerate(leads.items())
  }


def holm(p: np.ndarray) -> np.ndarray:
  """Corrects p-values of any shape for their number (Holm 1979).

  Rejecting where the corrected p-value is below alpha keeps the probability of
  any false rejection at or below alpha, under any dependence between the
  tests. Entries that are nan count as no test and stay nan.
  """
  flat = p.ravel()
  tested = np.flatnonzero(~np.isnan(flat))
  order = tested[np.argsort(flat[tested], kind="stable")]
  scaled = flat[order] * np.arange(order.size, 0, -1)
  adjusted = np.full(flat.shape, np.nan)
  adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1)
  return adjusted.reshape(p.shape)


def departures(signal: np.ndarray) -> np.ndarray:
  """Distance [N] of each measurement above the line through those before it.

  The line is an ordinary least-squares fit to the previous WINDOW
  measurements, and the unit is the standard error of its prediction. The first
  WINDOW entries are 0. No entry depends on a later measurement.

  Args:
    signal: [N] measurements at even steps. Pass the logarithm of a positive
      signal.
  """
  signal = np.asarray(signal, float)
  x = np.arange(WINDOW) - (WINDOW - 1) / 2
  ahead = (WINDOW + 1) / 2  # from the window's middle to the next measurement
  spread = np.sqrt(1 + 1 / WINDOW + ahead**2 / (x @ x))
  far = np.zeros(len(signal))
  for i in range(WINDOW, len(signal)):
    before = signal[i - WINDOW : i]
    slope = x @ before / (x @ x)
    level = before.mean()
    noise = np.sqrt(np.sum((before - level - slope * x) ** 2) / (WINDOW - 2))
    error = signal[i] - level - slope * ahead
    # Any deviation from a line without noise is infinitely significant.
    far[i] = error / max(noise * spread, np.finfo(float).tiny)
  return far


def alarm_threshold(
  controls: Sequence[np.ndarray], false_alarms: float
) -> float:
  """The threshold on departures that a given share of control runs exceeds.

  Alarms of different signals are comparable at thresholds with the same
  false-alarm rate.

  Args:
    controls: signals [N] of runs without a transition.
    false_alarms: the share of them that may raise an alarm, in (0, 1).
  """
  highest = [np.max(departures(signal)) for signal in controls]
  return float(np.quantile(highest, 1 - false_alarms, method="higher"))


def first_alarm(
  steps: np.ndarray, signal: np.ndarray, threshold: float
) -> float | None:
  """The first step at which the departure exceeds a threshold, or None."""
  above = np.flatnonzero(departures(signal) > threshold)
  return float(steps[above[0]]) if len(above) else None


def _signed_rank(lead: np.ndarray) -> float:
  if not np.any(lead):
    return 1.0
  return float(stats.wilcoxon(lead, zero_method="zsplit").pvalue)


def _median(
  lead: np.ndarray, rng: np.random.Generator
) -> tuple[float | None, float | None, float | None]:
  """Median with its percentile interval."""
  if not lead.size:
    return None, None, None
  drawn = lead[rng.integers(len(lead), size=(RESAMPLES, len(lead)))]
  tail = (1 - CONFIDENCE) / 2
  low, high = np.quantile(np.median(drawn, axis=1), (tail, 1 - tail))
  return float(np.median(lead)), float(low), float(high)
