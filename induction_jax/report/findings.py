"""The findings of a run: transition, induction verdict, heads and spectrum.

They are computed from results.nc and nothing else. The transition is dated from
behaviour and never from curvature, because the spectrum is the quantity under
study.
"""

from typing import NamedTuple

import numpy as np
import xarray as xr

from induction_jax.transition import MIN_POINTS, Transition, detect

# The behavioural signals in order of precedence, each with the smallest change
# that counts as a transition (in accuracy, attention, and nats). A change in
# the other direction, such as a rise of the loss, does not count.
SIGNALS = {
  "pattern_accuracy": 0.3,
  "prefix_matching": 0.2,
  "pattern_loss": -1.0,
}
# The extreme eigenvalues that are reported.
ENDS = ("top", "bottom", "preconditioned_top")
# A run has an induction head only if all three conditions hold.
MIN_ACCURACY = 0.5
MIN_PREFIX_MATCHING_OVER_NULL = 0.25
MIN_ABLATION_COST = 0.1  # nats
MIN_ABLATION_SIGMAS = 3.0


class Head(NamedTuple):
  """The head with the highest value of a score at the last step."""

  layer: int
  head: int
  score: float
  null: float

  @property
  def name(self) -> str:
    """The head as L1H3, both counted from 0."""
    return head_name(self.layer, self.head)


class Verdict(NamedTuple):
  """Whether a run has an induction head, and the checks that decided it."""

  has_induction_head: bool
  reasons: tuple[str, ...]


class Extremes(NamedTuple):
  """One extreme eigenvalue around the transition and over the run.

  The first six attributes are None if the onset or the completion is not dated.

  Attributes:
    before: the last measurement at or before the onset.
    before_step: its step.
    peak: the extreme value between `before` and `after`.
    peak_step: its step.
    after: the first measurement at least one length of the transition after
      its completion.
    after_step: its step.
    run_peak: the extreme value of the run.
    run_peak_step: its step.
    final: the last measurement.
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
  """Everything that the summary and the figures state beyond raw curves.

  Attributes:
    transition: the transition on which most of the signals agree.
    signals: the transition of each behavioural signal.
    verdict: whether the run has an induction head.
    induction_head: the head with the highest prefix matching, an induction
      head only if the verdict says so.
    previous_token_head: the head with the highest previous-token attention.
    spectrum: extremes of each measured end of the spectrum.
  """

  transition: Transition
  signals: dict[str, Transition]
  verdict: Verdict
  induction_head: Head
  previous_token_head: Head
  spectrum: dict[str, Extremes]

  @property
  def induction_head_label(self) -> str:
    """The label of the best prefix-matching head, as the verdict allows."""
    if self.verdict.has_induction_head:
      return f"induction head {self.induction_head.name}"
    return f"best prefix-matching head {self.induction_head.name}"


def head_name(layer: int, head: int) -> str:
  """The name of a head in everything that people read, such as L1H3."""
  return f"L{layer}H{head}"


def head_names(results: xr.Dataset) -> list[str]:
  """The names of all heads, in the order of layers and heads."""
  sizes = results.sizes
  return [
    head_name(layer, head)
    for layer, head in np.ndindex(sizes["layer"], sizes["head"])
  ]


def find(results: xr.Dataset) -> Findings:
  """Computes the findings of a run from its results."""
  signals = {
    name: _detect(_signal(results, name), min_change)
    for name, min_change in SIGNALS.items()
  }
  transition = combine(signals)
  induction_head = best_head(results, "prefix_matching")
  return Findings(
    transition=transition,
    signals=signals,
    verdict=decide_verdict(results, induction_head),
    induction_head=induction_head,
    previous_token_head=best_head(results, "previous_token"),
    spectrum={
      end: _extremes(series, transition)
      for end in ENDS
      if f"{end}_eigenvalues" in results
      # A preconditioned eigenvalue is nan at step 0.
      and (series := measured(results[f"{end}_eigenvalues"][:, 0])).size
    },
  )


def combine(signals: dict[str, Transition]) -> Transition:
  """Combines the transitions of several signals by majority of their status.

  The result is the transition of the first signal in the majority. Without a
  majority it is `ambiguous` and has no dates.
  """
  for transition in signals.values():
    votes = sum(other.status == transition.status for other in signals.values())
    if 2 * votes > len(signals):
      return transition
  statuses = ", ".join(f"{k}: {v.status}" for k, v in signals.items())
  return Transition("ambiguous", f"the signals disagree ({statuses})")


def best_head(results: xr.Dataset, name: str) -> Head:
  """The head with the highest value of a score at the last step."""
  scores = measured(results[name])[-1].values
  layer, head = np.unravel_index(np.argmax(scores), scores.shape)
  return Head(
    layer=int(layer),
    head=int(head),
    score=float(scores[layer, head]),
    null=float(results[f"{name}_null"]),
  )


def decide_verdict(results: xr.Dataset, head: Head) -> Verdict:
  """Decides whether a head is an induction head at the last step.

  Three conditions must hold on sequences of the `repeats` task, whatever the
  run's own task is: the network predicts repeated patterns, the head attends to
  the tokens after earlier occurrences, and zero-ablating the head costs loss.
  Without a measured ablation the verdict is negative.
  """
  accuracy = float(measured(results["induction_accuracy"])[-1])
  checks = [
    _check("accuracy on repeats", accuracy, MIN_ACCURACY, ""),
    _check(
      f"prefix matching of head {head.name}",
      head.score,
      head.null + MIN_PREFIX_MATCHING_OVER_NULL,
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
        f"loss cost of ablating head {head.name}",
        cost,
        max(MIN_ABLATION_COST, MIN_ABLATION_SIGMAS * error),
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
  """A variable at the steps at which it was measured."""
  return array.dropna("step", how="all")


def _signal(results: xr.Dataset, name: str) -> xr.DataArray:
  """A behavioural signal [step], on sequences of the `repeats` task."""
  if name == "prefix_matching":
    return measured(results[name].max(("layer", "head")))
  on_repeats = name.replace("pattern", "induction")
  return measured(results[on_repeats])


def _detect(signal: xr.DataArray, min_change: float) -> Transition:
  if signal.size < MIN_POINTS:
    return Transition(
      "ambiguous", f"{signal.size} measurements, at least {MIN_POINTS} needed"
    )
  found = detect(
    signal.step.values, signal.values, min_amplitude=abs(min_change)
  )
  right = [x for x in found.jumps if x.amplitude * min_change > 0]
  if found.jumps and not right:
    return Transition("none", "the signal jumps in the wrong direction")
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
  """The extremes of a series [step], minima at the bottom of the spectrum."""
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
