"""The summary of a run: as plain numbers, and as a screen of text."""

from typing import Any

import xarray as xr

from induction_jax.report.events import date_events
from induction_jax.report.findings import (
  ENDS,
  Extremes,
  Findings,
  Head,
  measured,
)
from induction_jax.transition import Interval, Transition
from induction_jax.transition.events import Excursion


def summarise(
  results: xr.Dataset, findings: Findings, cost: dict[str, float]
) -> dict[str, Any]:
  """summary.json: what the run found, as plain numbers."""
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
  """The transition as dated from a zoom's measurements too, and its width.

  The ends' intervals are taken together for that of the width: never too
  narrow. Without both ends there is none.
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


def format_summary(summary: dict[str, Any]) -> str:
  """What a person reads first."""
  transition = summary["transition"]
  verdict = summary["verdict"]
  spectrum = summary["spectrum"]
  final = summary["final"]
  cost = summary["cost"]
  answer = "yes" if verdict["has_induction_head"] else "no"
  lines = [
    f"at step {final['step']}",
    f"transition on repeats: {transition['status']}{_why(transition)}",
    *(
      f"  {event:<11}{_interval(transition[event])}"
      for event in ("onset", "midpoint", "completion")
      if transition[event] is not None
    ),
    f"induction head: {answer}",
    *(f"  {reason}" for reason in verdict["reasons"]),
    _head("best previous-token head", summary["heads"]["previous_token"]),
    f"accuracy: {final['pattern_accuracy']:.3f} on predictable tokens, "
    f"{final['random_accuracy']:.3f} on the rest",
  ]
  for end in ENDS:
    if spectrum[f"{end}_final"] is not None:
      lines += _eigenvalue_lines(end, spectrum)
  if summary["events"]:
    lines += ["events, by signal:", *_event_lines(summary["events"])]
  lines.append(
    f"cost: {cost['wall_seconds']:.0f} s, of which "
    f"{cost['train_seconds']:.0f} training and "
    f"{cost['measure_seconds']:.0f} measuring; "
    f"{cost['hvp_count']} Hessian products"
  )
  if first := cost.get("first_step_seconds"):  # runs of old have none
    lines.append(f"first steps after {first:.1f} s")
  return "\n".join(lines)


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
  """The stability edge at the end, and how often the top was above it."""
  none = {"preconditioned_edge": None, "preconditioned_above_edge": None}
  if "preconditioned_edge" not in results:
    return none
  edge = measured(results["preconditioned_edge"])
  if not edge.size:  # it ended before Adam had moments
    return none
  top = results["preconditioned_top_eigenvalues"][:, 0].sel(step=edge.step)
  return {
    "preconditioned_edge": float(edge[-1]),
    "preconditioned_above_edge": float((top > edge).mean()),
  }


def _counts(results: xr.Dataset) -> dict[str, int]:
  one_of_each_probe = (
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
      for name in one_of_each_probe
      if name in results
    ),
  }


def _why(transition: dict[str, Any]) -> str:
  """The reason, where the answer alone leaves one wondering."""
  ambiguous = transition["status"] == "ambiguous"
  return f" ({transition['reason']})" if ambiguous else ""


def _eigenvalue_lines(end: str, spectrum: dict[str, Any]) -> list[str]:
  value = {name: spectrum[f"{end}_{name}"] for name in Extremes._fields}
  lines = [f"{end.replace('_', ' ')} eigenvalue:"]
  if value["peak"] is not None:
    lines.append(
      f"  transition {value['before']:.3g} before (step "
      f"{value['before_step']}), {value['peak']:.3g} at the peak "
      f"({value['peak_step']}), {value['after']:.3g} after "
      f"({value['after_step']})"
    )
  lines.append(
    f"  whole run  {value['run_peak']:.3g} at the peak (step "
    f"{value['run_peak_step']}), {value['final']:.3g} at the end"
  )
  if end.startswith("preconditioned"):
    lines.append(
      f"  edge       {spectrum['preconditioned_edge']:.5g}, exceeded in "
      f"{spectrum['preconditioned_above_edge']:.0%} of the measurements"
    )
  return lines


def _event_lines(events: dict[str, Any]) -> list[str]:
  return [
    f"  {name.replace('_', ' '):<30}"
    + (
      ", ".join(
        f"{what} at {_interval(event[what])}"
        for what in ("onset", "peak")
        if event[what] is not None
      )
      or f"{event['status']}: {event['reason']}"
    )
    for name, event in events.items()
  ]


def _interval(interval: dict[str, float]) -> str:
  return (
    f"step {interval['estimate']:.0f} "
    f"[{interval['low']:.0f}, {interval['high']:.0f}]"
  )


def _head(name: str, head: dict[str, Any]) -> str:
  return (
    f"{name}: {head['layer']}.{head['head']}, score "
    f"{head['previous_token']:.3f}, null {head['null']:.3f}"
  )
