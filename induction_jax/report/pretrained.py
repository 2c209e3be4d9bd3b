"""What was found in a network that no run has trained, as a short table."""

import numpy as np
import xarray as xr

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
BEST = 4  # heads to a line


def format_heads(results: xr.Dataset) -> str:
  """Losses, and the best heads by each score beside its null.

  A head is layer.head; of a pair, the reader comes first.
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
  lines += [_line(results, name) for name in SCORES if name in results]
  return "\n".join(lines)


def _line(results: xr.Dataset, name: str) -> str:
  null = f"{results[f'{name}_null'].item():.3f}"
  if f"{name}_null_sd" in results:
    null += f" ± {results[f'{name}_null_sd'].item():.3f}"
  return f"{name:<20} {null:>14}  {'  '.join(_best(results[name]))}"


def _best(scores: xr.DataArray) -> list[str]:
  values = scores.values
  order = np.argsort(-np.nan_to_num(values, nan=-np.inf), axis=None)
  best = []
  for flat in order[:BEST]:
    index = np.unravel_index(flat, values.shape)
    if np.isnan(values[index]):
      continue
    head = "{}.{}".format(*index[:2])
    writer = " < {}.{}".format(*index[2:]) if len(index) > 2 else ""
    best.append(f"{head}{writer} {values[index]:.3f}")
  return best
