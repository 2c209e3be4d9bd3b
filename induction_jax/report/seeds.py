"""What many seeds found: one line each, and their spread."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from induction_jax.report.findings import Findings
from induction_jax.transition import Interval, Transition
from induction_jax.transition.survival import spread

EVENTS = ("onset", "midpoint", "completion")
# A seed of which it is not known whether it had a transition says nothing of
# when; all others do.
SAYS_NOTHING = "ambiguous"


class Outcome(NamedTuple):
  """What one seed came to.

  Attributes:
    seed: which.
    status: that of its transition, or `diverged`.
    transition: as found in what it measured.
    has_induction_head: the verdict at its last measurement.
    last_step: of its measurements; that of the divergence if it diverged.
  """

  seed: int
  status: str
  transition: Transition
  has_induction_head: bool
  last_step: int


def outcome(
  seed: int, results: xr.Dataset, findings: Findings, diverged: int | None
) -> Outcome:
  """The outcome of a seed from its results; `diverged` at a step, or None."""
  last_step = int(results.step[-1]) if diverged is None else diverged
  found = findings.transition
  return Outcome(
    seed=seed,
    status=found.status if diverged is None else "diverged",
    transition=found,
    has_induction_head=findings.verdict.has_induction_head,
    last_step=last_step,
  )


def event_times(
  outcomes: Sequence[Outcome], event: str
) -> tuple[np.ndarray, np.ndarray]:
  """Times of an event, or until when a seed was without it; and which.

  Right-censored is a seed that ended or diverged before the event. Of one
  whose event came before its first measurement (`before_start`) no time is
  known but that it is no later than that: it counts as seen at step 0.
  """
  times, seen = [], []
  for each in outcomes:
    interval = getattr(each.transition, event)
    status = each.transition.status
    past = status == "before_start" and event != "completion"
    # A seed that diverged early has too few measurements to be sure of more.
    silent = status == SAYS_NOTHING and each.status != "diverged"
    if interval is None and silent:
      continue
    times.append(_time(each, interval, past))
    seen.append(interval is not None or past)
  return np.array(times, float), np.array(seen, bool)


def summarise_seeds(outcomes: Sequence[Outcome]) -> dict[str, Any]:
  """summary.json of a sweep: every seed, then the spread over seeds."""
  statuses = [each.status for each in outcomes]
  return {
    "seeds": [
      {
        "seed": each.seed,
        "status": each.status,
        **{event: _interval(each.transition, event) for event in EVENTS},
        "has_induction_head": each.has_induction_head,
        "last_step": each.last_step,
      }
      for each in outcomes
    ],
    "statuses": {name: statuses.count(name) for name in sorted({*statuses})},
    "induction_heads": sum(each.has_induction_head for each in outcomes),
    "spread": {
      event: spread(*event_times(outcomes, event))._asdict() for event in EVENTS
    },
  }


def format_seeds(summary: dict[str, Any]) -> str:
  """Markdown: a table of the seeds, then one of their spread."""
  lines = [
    "| seed | status | onset | midpoint | completion | induction head |",
    "|---|---|---|---|---|---|",
  ]
  for each in summary["seeds"]:
    status = each["status"]
    if status == "diverged":
      status += f" at {each['last_step']}"
    cells = [each["seed"], status, *(_cell(each[event]) for event in EVENTS)]
    cells.append("yes" if each["has_induction_head"] else "no")
    lines.append(_row(cells))
  found = summary["spread"]
  lines += [
    "",
    "| event | seen | median | quartiles | range |",
    "|---|---|---|---|---|",
    *(_row([event, *_spread_cells(found[event])]) for event in EVENTS),
    "",
    _heads(summary),
  ]
  return "\n".join(lines)


def format_settings(summaries: dict[str, dict[str, Any]]) -> str:
  """Markdown: one line for each setting of a grid, by name."""
  lines = [
    "| setting | induction heads | statuses | midpoint seen | median | "
    "quartiles | range |",
    "|---|---|---|---|---|---|---|",
  ]
  for name, summary in summaries.items():
    statuses = ", ".join(f"{n} {k}" for k, n in summary["statuses"].items())
    heads = f"{summary['induction_heads']} of {len(summary['seeds'])}"
    cells = _spread_cells(summary["spread"]["midpoint"])
    lines.append(_row([name, heads, statuses, *cells]))
  return "\n".join(lines)


def _time(each: Outcome, interval: Interval | None, past: bool) -> float:
  if interval is not None:
    return interval.estimate
  return 0.0 if past else float(each.last_step)


def _interval(transition: Transition, event: str) -> dict[str, float] | None:
  interval = getattr(transition, event)
  if interval is None:
    return None
  return {name: float(step) for name, step in interval._asdict().items()}


def _cell(interval: dict[str, float] | None) -> str:
  if interval is None:
    return "-"
  return (
    f"{interval['estimate']:.0f} [{interval['low']:.0f}, "
    f"{interval['high']:.0f}]"
  )


def _spread_cells(found: dict[str, Any]) -> list[str]:
  """Seen, median with its limits, quartiles, range."""
  seen = f"{found['seen']} of {found['runs']}"
  if not found["seen"]:
    return [seen, "-", "-", "-"]

  def step(name: str) -> str:
    return "-" if found[name] is None else f"{found[name]:.0f}"

  beyond = "∞" if found["median_high"] is None else step("median_high")
  median = "-"
  if found["median_low"] is not None:
    median = f"{step('median')} [{step('median_low')}, {beyond}]"
  return [
    seen,
    median,
    f"{step('lower_quartile')}, {step('upper_quartile')}",
    f"{step('earliest')} to {step('latest')}",
  ]


def _heads(summary: dict[str, Any]) -> str:
  silent = summary["statuses"].get(SAYS_NOTHING, 0)
  note = f"; {silent} ambiguous, not in the spread" if silent else ""
  return (
    f"Induction head in {summary['induction_heads']} of "
    f"{len(summary['seeds'])} seeds{note}. Median with its 95 % interval "
    "(Kaplan-Meier); a seed that ended before the event counts as later."
  )


def _row(cells: Sequence[Any]) -> str:
  return "| " + " | ".join(map(str, cells)) + " |"
