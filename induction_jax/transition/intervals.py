"""Intervals of the times of fitted jumps, by bootstraps and by likelihood.

Two bootstraps and a profile likelihood are computed for each plausible drift,
and the interval that is reported spans all of them.
"""

import numpy as np
from scipy import stats

from induction_jax.transition import curves

CONFIDENCE = 0.95  # nominal coverage
REPLICATES = 199  # of each bootstrap
# Distances of onset, midpoint and completion from the midpoint, in widths.
ENDS = np.array([-0.5, 0.0, 0.5])
# The residuals of two measurements inside a jump are almost entirely removed
# by the fit. Dividing them by 1 - leverage is meaningless beyond this bound.
_MAX_LEVERAGE = 0.9
# Drifts whose BIC is this close to the best one contribute to the intervals:
# the data rarely determine the drift under a jump, and it moves the ends.
RIVAL_BIC = 4.0
_N_ITERATIONS = 4
_RIDGE = 1e-9
# The grid of the profile likelihood: widths in units of the fitted width,
# and offsets of the midpoint in units of the width on the grid.
_WIDTHS = 2.0 ** np.linspace(-4, 4, 25)
_OFFSETS = np.linspace(-1, 1, 21)


def estimate_intervals(
  curve: curves.Curve,
  fitted: curves.Fit,
  rng: np.random.Generator,
) -> np.ndarray:
  """Intervals [jumps, 4, 2] of the `points` of a fit with jumps.

  Each spans the intervals of the bootstraps and of the profile likelihood. In
  slow noise a single step of the noise can be fitted in place of the jump. All
  replicates of a jump that was fitted too narrow then agree on it, while the
  likelihood still contains the wide one.
  """
  resampled = bootstrap(curve, fitted, rng)
  profiles = [
    profile_likelihood(curve, fitted, index)
    for index in range(fitted.model.jumps)
  ]
  both = np.stack([resampled, np.stack(profiles)])
  return np.stack([both[..., 0].min(0), both[..., 1].max(0)], axis=-1)


def span_rivals(
  curve: curves.Curve,
  rivals: list[curves.Fit],
  rng: np.random.Generator,
) -> np.ndarray:
  """Intervals [jumps, 4, 2] that span those of every plausible fit.

  Args:
    curve: the curve that was fitted.
    rivals: fits with equally many jumps, one for each drift, best first.
    rng: generator for the bootstraps.
  """
  best = points(curve, rivals[0])[:, 1]
  plausible = []
  for fit in rivals:
    if fit.bic > rivals[0].bic + RIVAL_BIC:
      continue
    # Two fits may hold the same jumps in different orders.
    order = [
      int(np.argmin(np.abs(points(curve, fit)[:, 1] - midpoint)))
      for midpoint in best
    ]
    bounds = estimate_intervals(curve, fit, rng)
    plausible.append(bounds[order])
  low = np.min([each[..., 0] for each in plausible], axis=0)
  high = np.max([each[..., 1] for each in plausible], axis=0)
  return np.stack([low, high], axis=-1)


def profile_likelihood(
  curve: curves.Curve, fitted: curves.Fit, index: int
) -> np.ndarray:
  """Profile-likelihood intervals [4, 2] of the points of one jump.

  The midpoint and the width vary on a grid around the fit. The coefficients
  are maximised over, and every other parameter keeps its fitted value. The
  interval spans the jumps whose likelihood ratio to the best one lies within
  the chi-square quantile (Venzon and Moolgavkar 1988). The grid is coarse
  compared with a precise fit, so that this interval only ever widens those of
  the bootstraps.
  """
  midpoint, width = curves.jumps_of(curve, fitted.model, fitted.theta)[index]
  widths = width * _WIDTHS[:, None]
  others = np.broadcast_arrays(midpoint + widths * _OFFSETS, np.log(widths))
  theta = np.tile(fitted.theta, (others[0].size, 1))
  theta[:, 1 + 2 * index] = others[0].ravel()
  theta[:, 2 + 2 * index] = others[1].ravel()
  theta = np.clip(
    theta, *np.transpose(curves.theta_bounds(curve, fitted.model))
  )
  columns = np.moveaxis(curves.design(curve, fitted.model, theta), 1, 0)
  white = curves.whiten(curve, fitted.theta[0], columns)  # [N, G, linear]
  height = curves.whiten(curve, fitted.theta[0], curve.height)
  basis, _ = np.linalg.qr(np.moveaxis(white, 0, 1))
  explained = np.sum((height @ basis) ** 2, axis=-1)  # [G]
  n = len(curve.time)
  variance = (height @ height - explained) / n + curves.NOISE_FLOOR**2
  ratio = n * np.log(variance / variance.min())
  near = theta[ratio <= stats.chi2.ppf(CONFIDENCE, 1)]
  found = _points(curve, fitted, near)[:, index]
  return np.stack([found.min(0), found.max(0)], axis=-1)


def bootstrap(
  curve: curves.Curve,
  fitted: curves.Fit,
  rng: np.random.Generator,
) -> np.ndarray:
  """Percentile intervals [jumps, 4, 2] that span those of two bootstraps.

  The block bootstrap resamples the innovations in blocks of about N^(1/3),
  which keeps correlation that AR(1) does not describe (Künsch 1989). The wild
  bootstrap (Wu 1986) keeps every innovation in place, divides it by
  1 - leverage (HC3, MacKinnon and White 1985) and gives it a random sign. It
  reflects that noise and misfit are larger at the jump than on the plateaus.
  Each replicate is refitted by Gauss-Newton steps from the fit.
  """
  rho = fitted.theta[0]
  shape = fitted.model, fitted.theta
  columns = curves.design(curve, *shape)
  slopes = curves.jacobian(curve, *shape, fitted.coefficients, columns)
  white = curves.whiten(curve, rho, slopes)  # [N, parameters]
  residual = curve.height - curves.mean(curve, fitted)
  innovations = curves.whiten(curve, rho, residual)
  leverage = np.sum(white.T * np.linalg.pinv(white, rcond=1e-10), axis=0)
  n, size = white.shape
  drawn = _draw_blocks(innovations, rng)
  drawn *= np.sqrt(n / (n - size - 1))
  signs = rng.choice([-1.0, 1.0], size=(n, REPLICATES))
  inflated = innovations / (1 - np.clip(leverage, 0, _MAX_LEVERAGE))
  quantiles = (1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2
  ranges = []
  for noise in (drawn, inflated[:, None] * signs):
    replicas = curves.simulate(curve, fitted, noise)
    found = _points(curve, fitted, _refit(curve, fitted, replicas))
    ranges.append(np.quantile(found, quantiles, axis=0))
  low = np.min([each[0] for each in ranges], axis=0)
  high = np.max([each[1] for each in ranges], axis=0)
  return np.stack([low, high], axis=-1)


def points(curve: curves.Curve, fitted: curves.Fit) -> np.ndarray:
  """Onset, midpoint, completion and width [jumps, 4], in time."""
  return _points(curve, fitted, fitted.theta)


def _points(
  curve: curves.Curve, fitted: curves.Fit, theta: np.ndarray
) -> np.ndarray:
  """The `points` [..., jumps, 4] of theta [..., n]."""
  jumps = curves.jumps_of(curve, fitted.model, theta)
  midpoint, width = jumps[..., :1], jumps[..., 1:]
  return np.concatenate([midpoint + width * ENDS, width], axis=-1)


def _draw_blocks(
  innovations: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
  """Innovations [N, REPLICATES] resampled in circular blocks, centred."""
  n = len(innovations)
  length = max(1, round(n ** (1 / 3)))
  firsts = rng.integers(n, size=(-(-n // length), 1, REPLICATES))
  places = (firsts + np.arange(length)[:, None]) % n  # [blocks, length, B]
  centred = innovations - innovations.mean()
  return centred[places.reshape(-1, REPLICATES)[:n]]


def _refit(
  curve: curves.Curve, fitted: curves.Fit, replicas: np.ndarray
) -> np.ndarray:
  """Fits theta [B, n] to curves [N, B] by Gauss-Newton steps at fixed rho."""
  b, n_linear = replicas.shape[1], len(fitted.coefficients)
  rho = fitted.theta[0]
  low, high = np.transpose(curves.theta_bounds(curve, fitted.model))
  theta = np.tile(fitted.theta, (b, 1))
  coefficients = np.tile(fitted.coefficients, (b, 1))
  for _ in range(_N_ITERATIONS):
    columns = curves.design(curve, fitted.model, theta)  # [B, N, linear]
    residual = replicas.T - np.einsum("bnc,bc->bn", columns, coefficients)
    slopes = curves.jacobian(curve, fitted.model, theta, coefficients, columns)
    slopes = curves.whiten(curve, rho, np.moveaxis(slopes, 1, 0))  # [N, B, p]
    residual = curves.whiten(curve, rho, residual.T)  # [N, B]
    # Batched matrix products are faster than einsum here.
    across = np.transpose(slopes, (1, 2, 0))  # [B, p, N]
    normal = across @ np.swapaxes(across, 1, 2)
    scale = np.einsum("bpp->bp", normal)
    normal += _RIDGE * np.eye(normal.shape[-1]) * (scale[:, None] + 1e-12)
    right = across @ residual.T[..., None]
    change = np.linalg.solve(normal, right)[..., 0]
    coefficients = coefficients + change[:, :n_linear]
    farthest = _farthest(curve, fitted, theta)
    theta[:, 1:] += np.clip(change[:, n_linear:], -farthest, farthest)
    theta = np.clip(theta, low, high)
  return theta


def _farthest(
  curve: curves.Curve, fitted: curves.Fit, theta: np.ndarray
) -> np.ndarray:
  """Largest step [B, n - 1] of each parameter; half a width for a midpoint.

  The linear approximation of a jump does not hold beyond that.
  """
  farthest = np.full_like(theta[:, 1:], 0.5)
  jumps = curves.jumps_of(curve, fitted.model, theta)
  farthest[:, : 2 * fitted.model.jumps : 2] = jumps[..., 1] / 2
  return farthest
