"""Which of two events comes first, over many seeds.

A lead is the transition's time less the event's, in steps: positive if the
event comes first. Seeds are pairs, so what varies from seed to seed in both
drops out.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from induction_jax.transition.multiplicity import holm

RESAMPLES = 9999
# Measurements from whose line a departure is counted.
WINDOW = 15


class Lead(NamedTuple):
  """How much earlier than the transition an event comes.

  Attributes:
    n_seeds: with a dated transition.
    n_dated: of these, with a dated event; all that follows is over them, and
      says little of the event where they are few.
    median: of the lead in steps; None without any.
    low, high: its bootstrap interval, 95 % unless told; None where the
      median is.
    p_value: two-sided signed-rank test (Wilcoxon 1945) of a lead symmetric
      about 0; 1 without any.
    corrected: the same, controlling the family-wise rate over all events
      (Holm 1979).
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
  *,
  confidence: float = 0.95,
  seed: int = 0,
) -> dict[str, Lead]:
  """The lead of every event over the transition.

  Args:
    transition: [N] step of the transition by seed; None where it was not
      dated: such a seed is in no pair.
    events: by name, [N] step of the event; None where it did not come.
    confidence: of the intervals, percentiles of resampled seeds (Efron 1979).
    seed: of the resampling.

  Raises:
    ValueError: if an event has not as many seeds as the transition, or fewer
      than two seeds have a transition.
  """
  leads = {}
  for name, times in events.items():
    if len(times) != len(transition):
      raise ValueError(
        f"event {name!r} must have one time a seed, {len(transition)}, got "
        f"{len(times)}"
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
  rng = np.random.default_rng(seed)
  return {
    name: Lead(
      n_seeds,
      len(lead),
      *_median(lead, confidence, rng),
      p_values[name],
      float(corrected[i]),
    )
    for i, (name, lead) in enumerate(leads.items())
  }


def departures(signal: np.ndarray) -> np.ndarray:
  """[N]: how far each measurement lies above the line of those before it.

  In standard errors of the prediction from an ordinary least-squares line
  through the WINDOW measurements before; 0 for the first WINDOW. Online: no
  measurement sees a later one.

  Args:
    signal: [N], at even steps; the logarithm of a positive one.
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
    # A line without any noise is left by whatever is not on it.
    far[i] = error / max(noise * spread, np.finfo(float).tiny)
  return far


def alarm_threshold(
  controls: Sequence[np.ndarray], false_alarms: float
) -> float:
  """The height that departures exceed in such a share of the controls.

  Thresholds that give all signals the same rate of false alarms over a run
  make their alarms comparable.

  Args:
    controls: signals [N] of runs in which nothing happens.
    false_alarms: share of them that may give an alarm, in (0, 1).
  """
  highest = [np.max(departures(signal)) for signal in controls]
  return float(np.quantile(highest, 1 - false_alarms, method="higher"))


def first_alarm(
  steps: np.ndarray, signal: np.ndarray, threshold: float
) -> float | None:
  """The first step at which the departure exceeds the threshold."""
  above = np.flatnonzero(departures(signal) > threshold)
  return float(steps[above[0]]) if len(above) else None


def _signed_rank(lead: np.ndarray) -> float:
  if not np.any(lead):
    return 1.0
  return float(stats.wilcoxon(lead, zero_method="zsplit").pvalue)


def _median(
  lead: np.ndarray, confidence: float, rng: np.random.Generator
) -> tuple[float | None, float | None, float | None]:
  """Median and percentile interval."""
  if not lead.size:
    return None, None, None
  drawn = lead[rng.integers(len(lead), size=(RESAMPLES, len(lead)))]
  tail = (1 - confidence) / 2
  low, high = np.quantile(np.median(drawn, axis=1), (tail, 1 - tail))
  return float(np.median(lead)), float(low), float(high)
