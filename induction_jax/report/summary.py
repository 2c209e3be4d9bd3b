"""The summary of a run: as plain numbers, and as a dozen lines of text."""

from typing import Any

import xarray as xr

from induction_jax.report.findings import Extremes, Findings, Head, measured
from induction_jax.transition import Interval, Transition


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
    "spectrum": _extremes_summary("top", findings.top)
    | _extremes_summary("bottom", findings.bottom),
    "cost": dict(cost) | _counts(results),
  }


def format_summary(summary: dict[str, Any]) -> str:
  """A dozen lines a person reads first."""
  transition = summary["transition"]
  verdict = summary["verdict"]
  spectrum = summary["spectrum"]
  final = summary["final"]
  cost = summary["cost"]
  answer = "yes" if verdict["has_induction_head"] else "no"
  lines = [
    f"step {final['step']}",
    f"transition: {transition['status']}",
    *(
      f"  {event:<11}{_interval(transition[event])}"
      for event in ("onset", "midpoint", "completion")
    ),
    f"induction head: {answer}",
    *(f"  {reason}" for reason in verdict["reasons"]),
    _head("previous-token head", summary["heads"]["previous_token"]),
    f"accuracy: {final['pattern_accuracy']:.3f} on predictable tokens, "
    f"{final['random_accuracy']:.3f} on the rest",
  ]
  for end in ("top", "bottom"):
    if spectrum[f"{end}_peak"] is not None:
      lines.append(
        f"{end} eigenvalue: {spectrum[f'{end}_before']:.3g} before, "
        f"{spectrum[f'{end}_peak']:.3g} at the peak "
        f"(step {spectrum[f'{end}_peak_step']}), "
        f"{spectrum[f'{end}_after']:.3g} after"
      )
  lines.append(
    f"cost: {cost['wall_seconds']:.0f} s, of which "
    f"{cost['train_seconds']:.0f} training and "
    f"{cost['measure_seconds']:.0f} measuring; "
    f"{cost['hvp_count']} Hessian products"
  )
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


def _head_summary(head: Head, score: str) -> dict[str, Any]:
  return {
    "layer": head.layer,
    "head": head.head,
    score: head.score,
    "null": head.null,
  }


def _extremes_summary(end: str, extremes: Extremes | None) -> dict[str, Any]:
  if extremes is None:
    return {f"{end}_{name}": None for name in Extremes._fields}
  return {f"{end}_{k}": v for k, v in extremes._asdict().items()}


def _counts(results: xr.Dataset) -> dict[str, int]:
  one_of_each_probe = ("pattern_accuracy", "ablation_cost", "top_eigenvalues")
  products = ("products", "preconditioned_products")
  return {
    "hvp_count": int(
      sum(float(results[name].sum()) for name in products if name in results)
    ),
    "measurements": sum(
      measured(results[name]).sizes["step"]
      for name in one_of_each_probe
      if name in results
    ),
  }


def _interval(interval: dict[str, float] | None) -> str:
  if interval is None:
    return "-"
  return (
    f"step {interval['estimate']:.0f} "
    f"[{interval['low']:.0f}, {interval['high']:.0f}]"
  )


def _head(name: str, head: dict[str, Any]) -> str:
  return (
    f"{name}: {head['layer']}.{head['head']}, score "
    f"{head['previous_token']:.3f}, null {head['null']:.3f}"
  )
