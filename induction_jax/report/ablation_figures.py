"""Figures of causal effects: ablated heads, pairs of heads, and paths."""

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, SymLogNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from induction_jax.report import style
from induction_jax.report.findings import Findings, head_names, measured

# Labels of the interventions on a head, by prefix of the variable's name.
KINDS = {
  "ablation": "zero-ablated",
  "mean_ablation": "mean-ablated",
  "frozen_ablation": "zero-ablated,\npatterns frozen",
  "previous_token_pattern": "perfect\nprevious token",
  "induction_pattern": "perfect\ninduction",
}
TOKENS = {"": "predictable tokens", "_random": "other tokens"}
MAX_NUMBERED_ROWS = 32  # larger matrices show no numbers
SIGMAS = 2.0  # numbers within so many standard errors of 0 are grey
LINEAR = 0.1  # nats up to which the colour scale is linear
ORDER_COLORS = (
  style.BLACK,
  style.ORANGE,
  style.BLUE,
  style.GREEN,
  style.PURPLE,
)


def plot_ablation(results: xr.Dataset, findings: Findings) -> Figure:
  """Costs of interventions on heads before, at and after the transition."""
  steps = style.three_steps(measured(results["ablation_cost"]), findings)
  n_heads = results.sizes["layer"] * results.sizes["head"]
  figure, axes = plt.subplots(
    len(TOKENS),
    len(steps),
    figsize=(style.WIDTH, 1.6 + 0.3 * min(max(n_heads, 6), MAX_NUMBERED_ROWS)),
    sharex=True,
    sharey=True,
    squeeze=False,
  )
  sizes = (
    float(np.abs(results[f"{kind}_cost{suffix}"].sel(step=steps)).max())
    for kind in KINDS
    for suffix in TOKENS
  )
  most = max(LINEAR, *sizes)
  norm = SymLogNorm(LINEAR, vmin=-most, vmax=most)
  for row, (suffix, tokens) in zip(axes, TOKENS.items()):
    for ax, step in zip(row, steps):
      image = _plot_costs(ax, results.sel(step=step), suffix, norm)
      ax.set_title(f"{tokens}, step {step}")
    row[0].set_ylabel("head")
  label = f"increase of loss (nats)\ngrey number: within {SIGMAS:g} s.e. of 0"
  figure.colorbar(image, ax=axes, label=label, shrink=0.7, aspect=30)
  return figure


def plot_paths(results: xr.Dataset, findings: Findings) -> Figure:
  """Loss by path order, direct logit attribution, and pairs of heads."""
  figure, axes = plt.subplots(2, 2, figsize=(style.WIDTH, 4.8))
  for ax, name, what in (
    (axes[0, 0], "path_loss", "loss (nats),\npaths of ≤ n heads"),
    (axes[0, 1], "path_importance", "loss reduction (nats),\npaths of n heads"),
  ):
    if name in results:
      _plot_orders(ax, results, name)
      ax.set_ylabel(what)
      style.step_axis(ax, results.step.values, findings)
    else:
      style.write_instead(ax, "with MLPs, paths have no order")
  _plot_attribution(axes[1, 0], results)
  style.step_axis(axes[1, 0], results.step.values, findings)
  _plot_pairs(axes[1, 1], results)
  return figure


def _plot_costs(
  ax: Axes, results: xr.Dataset, suffix: str, norm: Normalize
) -> AxesImage:
  """A matrix of heads by interventions, at one step."""
  names = [f"{kind}_cost{suffix}" for kind in KINDS]
  costs = np.stack([np.ravel(results[name]) for name in names], axis=1)
  errors = np.stack([np.ravel(results[f"{n}_se"]) for n in names], axis=1)
  image = ax.imshow(costs, norm=norm, cmap="RdBu_r", aspect="auto")
  ax.set_xticks(range(len(KINDS)), list(KINDS.values()), rotation=90)
  ax.set_yticks(range(len(costs)), head_names(results))
  for row in range(results.sizes["head"], len(costs), results.sizes["head"]):
    ax.axhline(row - 0.5, color="black", linewidth=0.8)
  ax.axvline(2.5, color="black", linewidth=0.8)  # ablations | patterns
  if len(costs) <= MAX_NUMBERED_ROWS:
    _write_numbers(ax, costs, errors, norm)
  return image


def _write_numbers(
  ax: Axes, values: np.ndarray, errors: np.ndarray, norm: Normalize
) -> None:
  """Writes a number in every cell, grey if it is within the noise."""
  for (row, column), value in np.ndenumerate(values):
    clear = abs(value) > SIGMAS * errors[row, column]
    deep = abs(float(norm(value)) - 0.5) > 0.3
    plain, faint = ("white", "0.75") if deep else ("black", "0.45")
    ax.text(
      column,
      row,
      f"{value:.2f}".replace("-0.00", "0.00"),
      ha="center",
      va="center",
      fontsize=5,
      color=plain if clear else faint,
    )


def _plot_orders(ax: Axes, results: xr.Dataset, name: str) -> None:
  for suffix, line in (("", "-"), ("_random", ":")):
    curves = measured(results[name + suffix])
    errors = results[f"{name}{suffix}_se"].sel(step=curves.step)
    for order in range(curves.sizes["path_order"]):
      curve, error = curves[:, order], errors[:, order]
      color = ORDER_COLORS[order % len(ORDER_COLORS)]
      label = f"n = {order}" if not suffix else None
      ax.plot(
        curve.step,
        curve,
        marker=".",
        markersize=2.5,
        linewidth=1.0,
        color=color,
        linestyle=line,
        label=label,
      )
      style.plot_band(ax, curve.step, curve - error, curve + error, color, 0.2)
  ax.plot([], [], color="0.3", linestyle=":", label="other tokens")
  style.plot_null(ax, results[f"{name}_null"])
  style.legend_above(ax, ncols=3)


def _plot_attribution(ax: Axes, results: xr.Dataset) -> None:
  style.plot_heads(ax, results["direct_attribution"])
  embedding = results["embedding_attribution"]
  style.plot_curve(ax, embedding, "embedding", style.BLACK)
  style.plot_null(ax, results["direct_attribution_null"])
  ax.set_ylabel("direct attribution to the\ntarget's logit (nats)")
  style.legend_above(ax, ncols=3)


def _plot_pairs(ax: Axes, results: xr.Dataset) -> None:
  """Joint cost of two heads minus the sum of their costs, at the last step."""
  if results.sizes["layer"] == 1 or "pair_ablation_cost" not in results:
    style.write_instead(ax, "no pairs of heads measured")
    return
  pairs = measured(results["pair_ablation_cost"])[-1]
  excess = pairs - results["pair_ablation_cost_null"].sel(step=pairs.step)
  n, heads = results.sizes["head"], head_names(results)
  matrix = excess.values.reshape(len(heads), -1)[n:, :-n]
  most = float(np.nanmax(np.abs(matrix)))
  norm = Normalize(-most, most)
  image = ax.imshow(matrix, norm=norm, cmap="RdBu_r", aspect="auto")
  if len(matrix) <= MAX_NUMBERED_ROWS // 2:
    _write_numbers(ax, matrix, np.zeros_like(matrix), norm)
  ax.set_xticks(range(len(heads) - n), heads[:-n], rotation=90)
  ax.set_yticks(range(len(heads) - n), heads[n:])
  ax.set(xlabel="earlier head", ylabel="later head")
  ax.set_title(f"two heads zero-ablated, step {int(pairs.step)}")
  ax.figure.colorbar(
    image, ax=ax, label="joint cost minus the\nsum of both costs (nats)"
  )
