"""The summary of a run: its findings as plain numbers, in summary.json."""

import contextlib
from typing import Any

import xarray as xr

from induction_jax.config import ConfigError
from induction_jax.report.events import date_events
from induction_jax.report.findings import (
  ENDS,
  Extremes,
  Findings,
  Head,
  measured,
)
from induction_jax.storage.files import read_object, write_json
from induction_jax.storage.run_directory import (
  RunDirectory,
  read_cost,
)
from induction_jax.transition import Interval, Transition
from induction_jax.transition.events import Excursion


def summarise(
  results: xr.Dataset, findings: Findings, cost: dict[str, float]
) -> dict[str, Any]:
  """Makes the contents of summary.json from the findings and the results."""
  transition = findings.transition
  final = {
    name: float(measured(results[name])[-1])
    for name in (
      "pattern_accuracy",
      "random_accuracy",
      "pattern_loss",
      "random_loss",
      "induction_accuracy",
      "induction_loss",
      "train_loss",
    )
  }
  return {
    "transition": _transition_summary(transition)
    | {
      "signals": {
        name: _transition_summary(signal)
        for name, signal in findings.signals.items()
      }
    },
    "verdict": {
      "has_induction_head": findings.verdict.has_induction_head,
      "reasons": list(findings.verdict.reasons),
    },
    "heads": {
      "induction": _head_summary(findings.induction_head, "prefix_matching"),
      "previous_token": _head_summary(
        findings.previous_token_head, "previous_token"
      ),
    },
    "final": {"step": int(results.step[-1]), "loss": final["train_loss"]}
    | final,
    "spectrum": {
      f"{end}_{name}": value
      for end in ENDS
      for name, value in _extremes_summary(findings.spectrum.get(end)).items()
    }
    | _edge_summary(results),
    "events": {
      name: _event_summary(event)
      for name, event in date_events(results).items()
    },
    "cost": dict(cost) | _counts(results),
  }


def summarise_zoom(transition: Transition) -> dict[str, Any]:
  """Makes the summary of a transition dated with a zoom's measurements.

  It adds the width of the transition. The interval of the width combines the
  intervals of both ends conservatively. The width is None unless both ends are
  dated.
  """
  onset, completion = transition.onset, transition.completion
  width = (
    None
    if onset is None or completion is None
    else Interval(
      low=max(0.0, completion.low - onset.high),
      estimate=completion.estimate - onset.estimate,
      high=completion.high - onset.low,
    )
  )
  return _transition_summary(transition) | {"width": _interval_summary(width)}


def write_summary(
  run: RunDirectory, results: xr.Dataset, findings: Findings
) -> dict[str, Any]:
  """Writes summary.json and returns its contents.

  The summary of the newest zoom (`add_zoom`) is kept.
  """
  summary = summarise(results, findings, read_cost(run.cost))
  # There may be no earlier summary, or a damaged one.
  with contextlib.suppress(OSError, ConfigError):
    summary |= {"zoom": read_object(run.summary, zoom=dict)["zoom"]}
  write_json(run.summary, summary)
  return summary


def add_zoom(run: RunDirectory, zoomed: dict[str, Any]) -> None:
  """Adds the summary of a zoom to summary.json, replacing an earlier one.

  A run that has not ended has no summary, and then nothing is written.
  """
  if run.summary.exists():
    write_json(run.summary, read_object(run.summary) | {"zoom": zoomed})


def _transition_summary(transition: Transition) -> dict[str, Any]:
  return {
    "status": transition.status,
    "reason": transition.reason,
    "onset": _interval_summary(transition.onset),
    "midpoint": _interval_summary(transition.midpoint),
    "completion": _interval_summary(transition.completion),
  }


def _interval_summary(interval: Interval | None) -> dict[str, float] | None:
  return (
    None
    if interval is None
    else {k: float(v) for k, v in interval._asdict().items()}
  )


def _event_summary(event: Excursion) -> dict[str, Any]:
  return {
    "status": event.status,
    "reason": event.reason,
    "onset": _interval_summary(event.onset),
    "peak": _interval_summary(event.peak),
  }


def _head_summary(head: Head, score: str) -> dict[str, Any]:
  return {
    "layer": head.layer,
    "head": head.head,
    score: head.score,
    "null": head.null,
  }


def _extremes_summary(extremes: Extremes | None) -> dict[str, Any]:
  if extremes is None:
    return dict.fromkeys(Extremes._fields)
  return extremes._asdict()


def _edge_summary(results: xr.Dataset) -> dict[str, Any]:
  """The final stability edge, and how often the top eigenvalue exceeded it."""
  none = {"preconditioned_edge": None, "preconditioned_above_edge": None}
  if "preconditioned_edge" not in results:
    return none
  edge = measured(results["preconditioned_edge"])
  if not edge.size:  # the run ended before Adam had moments
    return none
  top = results["preconditioned_top_eigenvalues"][:, 0].sel(step=edge.step)
  return {
    "preconditioned_edge": float(edge[-1]),
    "preconditioned_above_edge": float((top > edge).mean()),
  }


def _counts(results: xr.Dataset) -> dict[str, int]:
  one_of_each_measurement = (
    "pattern_accuracy",
    "ov_copying",
    "ablation_cost",
    "top_eigenvalues",
    "density",
    "block_norm",
  )
  products = [name for name in results if str(name).endswith("products")]
  return {
    "hvp_count": int(sum(float(results[name].sum()) for name in products)),
    "measurements": sum(
      measured(results[name]).sizes["step"]
      for name in one_of_each_measurement
      if name in results
    ),
  }
