"""Whether a curve has one jump more than a fit says: a parametric bootstrap.

The statistic is the likelihood ratio of the model with a further jump to the
model without, both maximised over the same grid. Its distribution is no chi
square, since the new jump's midpoint and width do not exist under the null
(Davies 1987); so it is simulated from the fitted null. Curve and replicates are
scored on the same grid, so the coarseness of the grid costs power and not size.
"""

from typing import NamedTuple

import numpy as np
from scipy import special

from induction_jax.transition import models

RHOS = (0.0, 0.3, 0.5, 0.65, 0.8, 0.88, 0.94, 0.97, models.MAX_RHO)
POWERS = np.linspace(-models.MAX_POWER, models.MAX_POWER, 9)
_MAX_MIDPOINTS = 80
_N_WIDTHS = 10
_N_STARTS = 3
# Replicates that often tell alone that a jump is not needed.
_FEW = 24


class Search(NamedTuple):
  """What a further jump would gain.

  Attributes:
    p_value: of the null that there is none; at least 1 / (replicates + 1).
    starts: [n, 4], best first, each of another width: rho, midpoint, log width
      and power, from where to fit the curve with the jump. None where no jump
      is high enough.
  """

  p_value: float
  starts: np.ndarray


class Grid(NamedTuple):
  """Jumps to try, [G]."""

  midpoints: np.ndarray
  log_widths: np.ndarray


class Scores(NamedTuple):
  """Log likelihoods of some curves [B], and of one cell of the grid each."""

  null: np.ndarray  # [B], best over rho and power
  jump: np.ndarray  # [B], best over rho, power and jump
  # [rho, power, G], of the first curve; -inf where the jump gains nothing.
  cells: np.ndarray


def search(
  curve: models.Curve,
  null: models.Fit,
  replicates: int,
  rng: np.random.Generator,
  *,
  least: float = 0.0,
  enough: float = 1.0,
) -> Search:
  """Tests a fit against the same with one more jump.

  Args:
    curve: what was fitted.
    null: the fit, of whatever drift; both sides of the ratio may choose the
      power of their drift anew, and the jumps of the null may move a little
      (by the linear terms of a change in midpoint and log width).
    replicates: curves to simulate from the null.
    rng: to simulate with.
    least: the lowest jump that counts, as a share of a curve's range. In slow
      noise a step of the noise often gains more than a wide jump does; where
      it is too low to count it must not stand in the way.
    enough: above this it does not matter by how much, and where some of the
      replicates alone bring the p-value there the others are not looked at.
  """
  grid = _make_grid(curve)
  innovations = rng.normal(size=(len(curve.time), replicates))
  simulated = models.simulate(curve, null, null.noise_sd * innovations)
  exceed = 0
  for drawn in np.split(simulated, [_FEW] if enough < 1 else [], axis=1):
    curves = np.column_stack([curve.height, drawn / np.ptp(drawn, axis=0)])
    scores = score(curve, null, grid, curves, least)
    ratios = scores.jump - scores.null
    exceed += np.sum(ratios[1:] >= ratios[0])
    p_value = float((1 + exceed) / (replicates + 1))
    if p_value > enough:
      break
  return Search(p_value, _best_starts(grid, scores.cells))


def _make_grid(curve: models.Curve) -> Grid:
  """Midpoints as dense as the measurements, or as many as are affordable."""
  centres = (curve.time[1:] + curve.time[:-1]) / 2
  centres = centres[:: -(-len(centres) // _MAX_MIDPOINTS)]
  narrowest = np.log(np.median(np.diff(curve.time)) / 2)
  widths = np.linspace(narrowest, 0.0, _N_WIDTHS)
  log_widths, midpoints = np.meshgrid(widths, centres, indexing="ij")
  return Grid(midpoints.ravel(), log_widths.ravel())


def score(
  curve: models.Curve,
  null: models.Fit,
  grid: Grid,
  curves: np.ndarray,
  least: float = 0.0,
) -> Scores:
  """Every cell of the grid for every curve [N, B]; lower jumps gain nothing."""
  widths = models.jump_width(curve, grid.midpoints, grid.log_widths)
  jumps = models.logistic(curve, grid.midpoints, widths).T  # [N, G]
  lowest = least / (jumps[-1] - jumps[0])  # coefficient of each, [G]
  bases = [null_columns(curve, null, power) for power in POWERS]
  n, b = curves.shape
  floor = models.NOISE_FLOOR**2
  best_null, best_jump = np.full((2, b), -np.inf)
  cells = np.empty((len(RHOS), len(POWERS), len(grid.midpoints)))
  for i, rho in enumerate(RHOS):
    white = models.whiten(curve, rho, curves)
    white_jumps = models.whiten(curve, rho, jumps)
    squares = np.sum(white**2, axis=0)
    lengths = np.sum(white_jumps**2, axis=0)  # [G]
    products = white_jumps.T @ white  # [G, B]
    frames = [
      np.linalg.qr(models.whiten(curve, rho, base))[0] for base in bases
    ]
    # One product for all powers reads the jumps once.
    shadows = np.split(white_jumps.T @ np.hstack(frames), len(frames), axis=1)
    for j, (basis, shadow) in enumerate(zip(frames, shadows)):
      inside = basis.T @ white
      left = squares - np.sum(inside**2, axis=0)  # [B]
      gains = _gains(lengths, shadow, products, inside, lowest)
      without = models.log_likelihood(curve, rho, _floor(left / n, floor))
      smallest = _floor((left - np.max(gains, axis=0)) / n, floor)
      with_jump = models.log_likelihood(curve, rho, smallest)
      first = _floor((left[0] - gains[:, 0]) / n, floor)
      first = models.log_likelihood(curve, rho, first)
      cells[i, j] = np.where(gains[:, 0] > 0, first, -np.inf)
      best_null = np.maximum(best_null, without)
      best_jump = np.maximum(best_jump, with_jump)
  return Scores(best_null, best_jump, cells)


def _gains(
  squares: np.ndarray,
  shadow: np.ndarray,
  products: np.ndarray,
  inside: np.ndarray,
  lowest: np.ndarray,
) -> np.ndarray:
  """[G, B]: by how much each jump lowers each sum of squares.

  From the jumps' squared lengths, their products with the null's basis and
  with the curves, and the curves' with that basis. A jump whose coefficient is
  below its lowest lowers it by nothing.
  """
  # Gram-Schmidt against the null; a jump inside its span gains nothing.
  beyond = squares - np.sum(shadow**2, axis=1)
  inverse = np.where(beyond > 1e-9 * squares, 1 / np.maximum(beyond, 1e-30), 0)
  gains = products - shadow @ inside
  gains[np.abs(gains) < (lowest * beyond)[:, None]] = 0.0
  gains *= gains
  gains *= inverse[:, None]
  return gains


def null_columns(
  curve: models.Curve, null: models.Fit, power: float
) -> np.ndarray:
  """Level, drift, the jumps so far and how they change as they move."""
  drift = [np.ones_like(curve.time), special.boxcox(curve.age, power)]
  k = null.model.jumps
  if not k:
    return np.column_stack(drift)
  jumps = models.Model("constant", k)
  theta = null.theta[: 1 + 2 * k]
  coefficients = np.append(0.0, null.coefficients[-k:])
  columns = models.design(curve, jumps, theta)
  moves = models.jacobian(curve, jumps, theta, coefficients, columns)
  return np.column_stack([*drift, moves[:, 1:]])


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
  return np.array([theta for _, theta in ranked[:_N_STARTS]])


def _floor(variance: np.ndarray, floor: float) -> np.ndarray:
  return np.maximum(variance, 0) + floor
