"""The summary as text, for the end of a run."""

from typing import Any


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
