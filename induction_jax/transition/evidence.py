"""The test for one further jump: a parametric bootstrap.

The statistic is the likelihood ratio of the models with and without the jump,
both maximised over one grid. It does not follow a chi-square distribution,
because the midpoint and the width of the jump do not exist under the null
hypothesis (Davies 1987). Its distribution is therefore simulated from the
fitted null model. The curve and the simulated curves are scored on the same
grid, so a coarse grid costs power but does not change the size of the test.
"""

from typing import NamedTuple

import numpy as np
from scipy import special

from induction_jax.transition import curves

# The smallest amplitude of a jump, as a share of the signal's range. Smaller
# jumps are noise or drift, and the search leaves them out. In slow noise a
# single step of the noise often gains more likelihood than a wide jump does,
# and must not hide it.
MIN_SHARE = 0.25
# Simulated curves for each test: p-values are multiples of 1 / 200.
REPLICATES = 199
# The first of them, which often suffice to show that a jump is not needed.
FIRST_REPLICATES = 24
# The grid.
RHOS = (0.0, 0.3, 0.5, 0.65, 0.8, 0.88, 0.94, 0.97, curves.MAX_RHO)
POWERS = np.linspace(-curves.MAX_POWER, curves.MAX_POWER, 9)
MAX_MIDPOINTS = 80
N_WIDTHS = 10
N_STARTS = 3


class Search(NamedTuple):
  """The evidence for one further jump.

  Attributes:
    p_value: of the null hypothesis of no further jump, at least
      1 / (REPLICATES + 1).
    starts: [n, 4] starting points for the fit with the jump: rho, midpoint,
      log width and power. The best comes first, and each has another width.
      Empty if no jump is high enough.
  """

  p_value: float
  starts: np.ndarray


class Grid(NamedTuple):
  """The jumps that are tried, [G]."""

  midpoints: np.ndarray
  log_widths: np.ndarray


class Scores(NamedTuple):
  """Log likelihoods of B curves."""

  null: np.ndarray  # [B], maximised over rho and power
  jump: np.ndarray  # [B], maximised over rho, power and jump
  # [rho, power, G] for the first curve; -inf where the jump gains nothing.
  cells: np.ndarray


def search(
  curve: curves.Curve,
  null: curves.Fit,
  rng: np.random.Generator,
  enough: float = 1.0,
) -> Search:
  """Tests a fit against the model with one more jump.

  Args:
    curve: the curve that was fitted.
    null: the fit, with any drift. Both likelihoods of the ratio are maximised
      over the power of the drift anew, and the jumps of the null may move a
      little (by the linear terms of a change in midpoint and log width).
    rng: generator for the simulated curves.
    enough: p-values above this need not be exact. The remaining replicates are
      skipped once the first ones bring the p-value above it.
  """
  grid = _make_grid(curve)
  innovations = rng.normal(size=(len(curve.time), REPLICATES))
  simulated = curves.simulate(curve, null, null.noise_sd * innovations)
  parts = [FIRST_REPLICATES] if enough < 1 else []
  exceed = 0
  for drawn in np.split(simulated, parts, axis=1):
    heights = np.column_stack([curve.height, drawn / np.ptp(drawn, axis=0)])
    scores = score(curve, null, grid, heights, MIN_SHARE)
    ratios = scores.jump - scores.null
    exceed += np.sum(ratios[1:] >= ratios[0])
    p_value = float((1 + exceed) / (REPLICATES + 1))
    if p_value > enough:
      break
  return Search(p_value, _best_starts(grid, scores.cells))


def score(
  curve: curves.Curve,
  null: curves.Fit,
  grid: Grid,
  heights: np.ndarray,
  min_share: float,
) -> Scores:
  """Scores every cell of the grid for every curve of heights [N, B].

  Jumps lower than min_share gain nothing.
  """
  widths = curves.jump_width(curve, grid.midpoints, grid.log_widths)
  jumps = curves.logistic(curve, grid.midpoints, widths).T  # [N, G]
  lowest = min_share / (jumps[-1] - jumps[0])  # [G] coefficients
  bases = [null_columns(curve, null, power) for power in POWERS]
  n, b = heights.shape
  floor = curves.NOISE_FLOOR**2
  best_null, best_jump = np.full((2, b), -np.inf)
  cells = np.empty((len(RHOS), len(POWERS), len(grid.midpoints)))
  for i, rho in enumerate(RHOS):
    white = curves.whiten(curve, rho, heights)
    white_jumps = curves.whiten(curve, rho, jumps)
    squares = np.sum(white**2, axis=0)
    lengths = np.sum(white_jumps**2, axis=0)  # [G]
    products = white_jumps.T @ white  # [G, B]
    frames = [
      np.linalg.qr(curves.whiten(curve, rho, base))[0] for base in bases
    ]
    # A single product for all powers reads the jumps only once.
    shadows = np.split(white_jumps.T @ np.hstack(frames), len(frames), axis=1)
    for j, (basis, shadow) in enumerate(zip(frames, shadows)):
      inside = basis.T @ white
      left = squares - np.sum(inside**2, axis=0)  # [B]
      gains = _gains(lengths, shadow, products, inside, lowest)
      without = curves.log_likelihood(curve, rho, _floor(left / n, floor))
      smallest = _floor((left - np.max(gains, axis=0)) / n, floor)
      with_jump = curves.log_likelihood(curve, rho, smallest)
      first = _floor((left[0] - gains[:, 0]) / n, floor)
      first = curves.log_likelihood(curve, rho, first)
      cells[i, j] = np.where(gains[:, 0] > 0, first, -np.inf)
      best_null = np.maximum(best_null, without)
      best_jump = np.maximum(best_jump, with_jump)
  return Scores(best_null, best_jump, cells)


def null_columns(
  curve: curves.Curve, null: curves.Fit, power: float
) -> np.ndarray:
  """Columns for level, drift, the present jumps, and small moves of these."""
  drift = [np.ones_like(curve.time), special.boxcox(curve.age, power)]
  k = null.model.jumps
  if not k:
    return np.column_stack(drift)
  jumps = curves.CurveModel("constant", k)
  theta = null.theta[: 1 + 2 * k]
  coefficients = np.append(0.0, null.coefficients[-k:])
  columns = curves.design(curve, jumps, theta)
  moves = curves.jacobian(curve, jumps, theta, coefficients, columns)
  return np.column_stack([*drift, moves[:, 1:]])


def _make_grid(curve: curves.Curve) -> Grid:
  """Midpoints between all measurements, thinned to at most MAX_MIDPOINTS."""
  centres = (curve.time[1:] + curve.time[:-1]) / 2
  centres = centres[:: -(-len(centres) // MAX_MIDPOINTS)]
  narrowest = np.log(np.median(np.diff(curve.time)) / 2)
  widths = np.linspace(narrowest, 0.0, N_WIDTHS)
  log_widths, midpoints = np.meshgrid(widths, centres, indexing="ij")
  return Grid(midpoints.ravel(), log_widths.ravel())


def _gains(
  squares: np.ndarray,
  shadow: np.ndarray,
  products: np.ndarray,
  inside: np.ndarray,
  lowest: np.ndarray,
) -> np.ndarray:
  """Reduction [G, B] of each curve's sum of squares by each jump.

  Args:
    squares: [G] squared lengths of the jumps.
    shadow: [G, null] products of the jumps with the null's basis.
    products: [G, B] products of the jumps with the curves.
    inside: [null, B] products of the null's basis with the curves.
    lowest: [G] smallest coefficient of each jump; a lower one gains nothing.
  """
  # Gram-Schmidt against the null. A jump inside its span gains nothing.
  beyond = squares - np.sum(shadow**2, axis=1)
  inverse = np.where(beyond > 1e-9 * squares, 1 / np.maximum(beyond, 1e-30), 0)
  gains = products - shadow @ inside
  gains[np.abs(gains) < (lowest * beyond)[:, None]] = 0.0
  gains *= gains
  gains *= inverse[:, None]
  return gains


def _best_starts(grid: Grid, cells: np.ndarray) -> np.ndarray:
  starts = []
  for log_width in np.unique(grid.log_widths):
    chosen = np.flatnonzero(grid.log_widths == log_width)
    i, j, g = np.unravel_index(
      np.argmax(cells[..., chosen]), cells[..., chosen].shape
    )
    theta = RHOS[i], grid.midpoints[chosen[g]], log_width, POWERS[j]
    starts.append((cells[i, j, chosen[g]], theta))
  high = [pair for pair in starts if np.isfinite(pair[0])]
  ranked = sorted(high, key=lambda pair: -pair[0])
  return np.array([theta for _, theta in ranked[:N_STARTS]])


def _floor(variance: np.ndarray, floor: float) -> np.ndarray:
  return np.maximum(variance, 0) + floor
