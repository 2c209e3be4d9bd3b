"""Text for the screen: a run's summary, and the heads of given weights."""

from typing import Any

import numpy as np
import xarray as xr

from induction_jax.report.findings import ENDS, Extremes, head_name

# The scores in the table of heads.
SCORES = (
  "prefix_matching",
  "previous_token",
  "duplicate_token",
  "ov_copying",
  "qk_matching",
  "k_composed_matching",
  "k_composition",
  "ablation_cost",
)
N_BEST = 4  # heads in a row of the table


def format_summary(summary: dict[str, Any]) -> str:
  """Formats a summary for the screen."""
  transition = summary["transition"]
  verdict = summary["verdict"]
  spectrum = summary["spectrum"]
  final = summary["final"]
  cost = summary["cost"]
  has_head = "yes" if verdict["has_induction_head"] else "no"
  lines = [
    f"at step {final['step']}",
    f"transition on repeats: {transition['status']}{_why(transition)}",
    *(
      f"  {point:<11}{_interval(transition[point])}"
      for point in ("onset", "midpoint", "completion")
      if transition[point] is not None
    ),
    f"induction head: {has_head}",
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
  if first := cost.get(
    "first_step_seconds"
  ):  # absent in runs of earlier versions
    lines.append(f"first steps after {first:.1f} s")
  return "\n".join(lines)


def format_heads(results: xr.Dataset) -> str:
  """Formats losses and the best heads by each score, with its null value.

  A pair of heads is written as reader < writer.
  """
  lines = [
    f"{tokens}: accuracy {results[f'{name}_accuracy'].item():.3f}, loss "
    f"{results[f'{name}_loss'].item():.2f} nats (a uniform guess: "
    f"{results[f'{name}_loss_null'].item():.2f})"
    for name, tokens in (
      ("pattern", "predictable tokens"),
      ("random", "other tokens"),
    )
  ]
  lines.append(f"\n{'score':<20} {'null':>14}  best heads")
  lines += [_score_line(results, name) for name in SCORES if name in results]
  return "\n".join(lines)


def _score_line(results: xr.Dataset, name: str) -> str:
  null = f"{results[f'{name}_null'].item():.3f}"
  if f"{name}_null_sd" in results:
    null += f" ± {results[f'{name}_null_sd'].item():.3f}"
  return f"{name:<20} {null:>14}  {'  '.join(_best(results[name]))}"


def _best(scores: xr.DataArray) -> list[str]:
  values = scores.values
  order = np.argsort(-np.nan_to_num(values, nan=-np.inf), axis=None)
  best = []
  for flat in order[:N_BEST]:
    index = np.unravel_index(flat, values.shape)
    if np.isnan(values[index]):
      continue
    heads = [head_name(*index[i : i + 2]) for i in range(0, len(index), 2)]
    best.append(f"{' < '.join(heads)} {values[index]:.3f}")
  return best


def _why(transition: dict[str, Any]) -> str:
  """The reason of an ambiguous status, in brackets."""
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
    f"  entire run {value['run_peak']:.3g} at the peak (step "
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
    f"{name}: {head_name(head['layer'], head['head'])}, score "
    f"{head['previous_token']:.3f}, null {head['null']:.3f}"
  )
