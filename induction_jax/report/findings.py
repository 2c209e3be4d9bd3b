"""What a run found: the transition, the verdict, the heads, the spectrum.

All of it follows from results.nc. The transition is dated from behaviour only,
never from curvature: the spectrum is the quantity under study.
"""

from typing import NamedTuple

import numpy as np
import xarray as xr

from induction_jax.transition import (
  MIN_POINTS,
  Transition,
  detect,
)

# The behavioural signals, in order of precedence, and the least change that
# counts as a transition in each (accuracy, attention mass, nats). A change the
# other way, such as a loss that rises, is none.
SIGNALS = {
  "pattern_accuracy": 0.3,
  "prefix_matching": 0.2,
  "pattern_loss": -1.0,
}
# Extreme eigenvalues to follow.
ENDS = ("top", "bottom", "preconditioned_top")
# What "has an induction head" takes, all three together.
LEAST_ACCURACY = 0.5
LEAST_PREFIX_MATCHING_OVER_NULL = 0.25
LEAST_ABLATION_COST = 0.1  # nats
LEAST_ABLATION_SIGMAS = 3.0


class Head(NamedTuple):
  """A head, found by its score at the last step."""

  layer: int
  head: int
  score: float
  null: float


class Verdict(NamedTuple):
  """Whether the run has an induction head, and what speaks for or against."""

  has_induction_head: bool
  reasons: tuple[str, ...]


class Extremes(NamedTuple):
  """One eigenvalue around the transition, and in the whole run.

  Attributes:
    before: the last measurement at or before the onset.
    before_step: its step.
    peak: the extreme from there to `after`.
    peak_step: its step.
    after: the first measurement a transition's length past completion.
    after_step: its step.
    run_peak: the extreme of the whole run.
    run_peak_step: its step.
    final: the last measurement.

  Where no transition is dated, the first six are None.
  """

  before: float | None
  before_step: int | None
  peak: float | None
  peak_step: int | None
  after: float | None
  after_step: int | None
  run_peak: float
  run_peak_step: int
  final: float


class Findings(NamedTuple):
  """Everything a summary or a figure says beyond the raw curves."""

  transition: Transition
  signals: dict[str, Transition]
  verdict: Verdict
  induction_head: Head
  previous_token_head: Head
  spectrum: dict[str, Extremes]  # by end; without what was not measured

  @property
  def induction_head_name(self) -> str:
    """What the best prefix-matching head may be called."""
    if self.verdict.has_induction_head:
      return "induction head"
    return "best prefix-matching head"


def find(results: xr.Dataset) -> Findings:
  """Reads the findings off a run's results."""
  signals = {
    name: _detect(_signal(results, name), least_change)
    for name, least_change in SIGNALS.items()
  }
  transition = combine(signals)
  induction_head = best_head(results, "prefix_matching")
  return Findings(
    transition=transition,
    signals=signals,
    verdict=judge(results, induction_head),
    induction_head=induction_head,
    previous_token_head=best_head(results, "previous_token"),
    spectrum={
      end: _extremes(series, transition)
      for end in ENDS
      if f"{end}_eigenvalues" in results
      # A preconditioned one is nan at step 0.
      and (series := measured(results[f"{end}_eigenvalues"][:, 0])).size
    },
  )


def combine(signals: dict[str, Transition]) -> Transition:
  """One answer from several signals: what at least two of three say.

  The times are those of the first signal that says so. Signals that do not
  agree make the answer `ambiguous`, without times.
  """
  for transition in signals.values():
    votes = sum(other.status == transition.status for other in signals.values())
    if 2 * votes > len(signals):
      return transition
  answers = ", ".join(f"{k}: {v.status}" for k, v in signals.items())
  return Transition("ambiguous", f"the signals disagree ({answers})")


def best_head(results: xr.Dataset, name: str) -> Head:
  """The head with the highest score at the last step."""
  scores = measured(results[name])[-1].values
  layer, head = np.unravel_index(np.argmax(scores), scores.shape)
  return Head(
    layer=int(layer),
    head=int(head),
    score=float(scores[layer, head]),
    null=float(results[f"{name}_null"]),
  )


def judge(results: xr.Dataset, head: Head) -> Verdict:
  """Whether a head is an induction head, at the last step.

  All three must hold, all of them on `repeats`, whatever the run's own task:
  the network predicts repeated patterns, the head attends to what followed
  earlier occurrences, and silencing it costs loss. Without an ablation
  there is no verdict in its favour.
  """
  accuracy = float(measured(results["induction_accuracy"])[-1])
  checks = [
    _check("accuracy on repeats", accuracy, LEAST_ACCURACY, ""),
    _check(
      f"prefix matching of head {head.layer}.{head.head}",
      head.score,
      head.null + LEAST_PREFIX_MATCHING_OVER_NULL,
      f", null {head.null:.3f}",
    ),
  ]
  if "ablation_cost" in results:
    cost, error = (
      float(measured(results[name])[-1, head.layer, head.head])
      for name in ("ablation_cost", "ablation_cost_se")
    )
    checks.append(
      _check(
        f"loss cost of ablating head {head.layer}.{head.head}",
        cost,
        max(LEAST_ABLATION_COST, LEAST_ABLATION_SIGMAS * error),
        f" nats, standard error {error:.3f}",
      )
    )
  else:
    checks.append((False, "no ablation was measured (ablation.interval=0)"))
  return Verdict(
    has_induction_head=all(passed for passed, _ in checks),
    reasons=tuple(reason for _, reason in checks),
  )


def measured(array: xr.DataArray) -> xr.DataArray:
  """The steps at which a variable was measured."""
  return array.dropna("step", how="all")


def _signal(results: xr.Dataset, name: str) -> xr.DataArray:
  """A behavioural signal on repeats, [step]."""
  if name == "prefix_matching":
    return measured(results[name].max(("layer", "head")))
  on_repeats = name.replace("pattern", "induction")
  return measured(results[on_repeats])


def _detect(signal: xr.DataArray, least_change: float) -> Transition:
  if signal.size < MIN_POINTS:
    return Transition(
      "ambiguous", f"{signal.size} measurements, at least {MIN_POINTS} needed"
    )
  found = detect(
    signal.step.values, signal.values, min_amplitude=abs(least_change)
  )
  right = [x for x in found.jumps if x.amplitude * least_change > 0]
  if found.jumps and not right:
    return Transition("none", "the signal jumps the wrong way")
  if not right:
    return found
  largest = max(right, key=lambda jump: abs(jump.amplitude))
  return found._replace(**largest._asdict())


def _check(
  what: str, value: float, least: float, note: str
) -> tuple[bool, str]:
  passed = bool(value >= least)
  sign = ">=" if passed else "<"
  return passed, f"{what} {value:.3f} {sign} {least:.3f}{note}"


def _extremes(series: xr.DataArray, transition: Transition) -> Extremes:
  """The extremes of a series [step]: the lowest of a bottom, else highest."""
  steps, values = series.step.values, series.values
  sign = -1 if str(series.name).startswith("bottom") else 1

  def peak(first: int, last: int) -> tuple[float, int]:
    index = first + np.argmax(sign * values[first : last + 1])
    return float(values[index]), int(steps[index])

  run_peak, run_peak_step = peak(0, len(steps) - 1)
  final = float(values[-1])
  onset, completion = transition.onset, transition.completion
  if onset is None or completion is None:
    undated = (None, None, None, None, None, None)
    return Extremes(*undated, run_peak, run_peak_step, final)
  settled = 2 * completion.estimate - onset.estimate
  first = int(np.searchsorted(steps, onset.estimate, side="right"))
  first = max(first - 1, 0)
  last = min(int(np.searchsorted(steps, settled)), len(steps) - 1)
  highest, step = peak(first, last)
  return Extremes(
    before=float(values[first]),
    before_step=int(steps[first]),
    peak=highest,
    peak_step=step,
    after=float(values[last]),
    after_step=int(steps[last]),
    run_peak=run_peak,
    run_peak_step=run_peak_step,
    final=final,
  )
