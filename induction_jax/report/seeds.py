"""Outcomes of the seeds of a sweep, and the spread of their transitions."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from induction_jax.report.findings import Findings
from induction_jax.transition import Interval, Transition
from induction_jax.transition.survival import spread

# The points of a transition that are dated.
POINTS = ("onset", "midpoint", "completion")
# Seeds of this status are left out of the spread, because it is not known
# whether they had a transition.
UNKNOWN = "ambiguous"


class Outcome(NamedTuple):
  """The findings of one seed that are compared across seeds.

  Attributes:
    seed: the seed.
    status: the status of its transition, or `diverged`.
    transition: the transition in the steps that were measured.
    has_induction_head: the verdict at its last measurement.
    last_step: the step of its last measurement, or of its divergence.
  """

  seed: int
  status: str
  transition: Transition
  has_induction_head: bool
  last_step: int


def outcome(
  seed: int, results: xr.Dataset, findings: Findings, diverged: int | None
) -> Outcome:
  """Makes the outcome of a seed.

  Args:
    seed: the seed.
    results: its results.
    findings: its findings.
    diverged: the step at which it diverged, or None.
  """
  last_step = int(results.step[-1]) if diverged is None else diverged
  found = findings.transition
  return Outcome(
    seed=seed,
    status=found.status if diverged is None else "diverged",
    transition=found,
    has_induction_head=findings.verdict.has_induction_head,
    last_step=last_step,
  )


def point_times(
  outcomes: Sequence[Outcome], point: str
) -> tuple[np.ndarray, np.ndarray]:
  """Steps of a point of the transition over seeds, with right-censoring.

  A seed that ended or diverged before the point is right-censored. A point
  before the first measurement (`before_start`) counts as seen at step 0.

  Returns:
    The step of the point, or the last step at which it had not come [N]; and
    whether the point was seen [N].
  """
  times, seen = [], []
  for each in outcomes:
    interval = getattr(each.transition, point)
    status = each.transition.status
    past = status == "before_start" and point != "completion"
    # A seed that diverged early is ambiguous for lack of measurements, but
    # certainly had no such point before it diverged.
    unknown = status == UNKNOWN and each.status != "diverged"
    if interval is None and unknown:
      continue
    times.append(_time(each, interval, past))
    seen.append(interval is not None or past)
  return np.array(times, float), np.array(seen, bool)


def summarise_seeds(outcomes: Sequence[Outcome]) -> dict[str, Any]:
  """Makes summary.json of a sweep: every seed, and the spread over seeds."""
  statuses = [each.status for each in outcomes]
  return {
    "seeds": [
      {
        "seed": each.seed,
        "status": each.status,
        **{point: _interval(each.transition, point) for point in POINTS},
        "has_induction_head": each.has_induction_head,
        "last_step": each.last_step,
      }
      for each in outcomes
    ],
    "statuses": {name: statuses.count(name) for name in sorted({*statuses})},
    "induction_heads": sum(each.has_induction_head for each in outcomes),
    "spread": {
      point: spread(*point_times(outcomes, point))._asdict() for point in POINTS
    },
  }


def format_seeds(summary: dict[str, Any]) -> str:
  """Formats a sweep's summary as Markdown: the seeds, then their spread."""
  lines = [
    "| seed | status | onset | midpoint | completion | induction head |",
    "|---|---|---|---|---|---|",
  ]
  for each in summary["seeds"]:
    status = each["status"]
    if status == "diverged":
      status += f" at {each['last_step']}"
    cells = [each["seed"], status, *(_cell(each[point]) for point in POINTS)]
    cells.append("yes" if each["has_induction_head"] else "no")
    lines.append(_row(cells))
  found = summary["spread"]
  lines += [
    "",
    "| point | seen | median | quartiles | range |",
    "|---|---|---|---|---|",
    *(_row([point, *_spread_cells(found[point])]) for point in POINTS),
    "",
    _note(summary),
  ]
  return "\n".join(lines)


def format_settings(summaries: dict[str, dict[str, Any]]) -> str:
  """Formats a grid as Markdown: one row for each setting, by name."""
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


def _interval(transition: Transition, point: str) -> dict[str, float] | None:
  interval = getattr(transition, point)
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
  """Cells with the number seen, median, quartiles and range."""
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


def _note(summary: dict[str, Any]) -> str:
  unknown = summary["statuses"].get(UNKNOWN, 0)
  note = f"; {unknown} ambiguous, not in the spread" if unknown else ""
  return (
    f"Induction head in {summary['induction_heads']} of "
    f"{len(summary['seeds'])} seeds{note}. Median with its 95 % interval "
    "(Kaplan-Meier); a seed that ended before the point is right-censored."
  )


def _row(cells: Sequence[Any]) -> str:
  return "| " + " | ".join(map(str, cells)) + " |"
