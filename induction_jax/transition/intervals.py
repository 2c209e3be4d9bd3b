"""How well the times of fitted jumps are known: bootstrap and likelihood."""

import numpy as np
from scipy import stats

from induction_jax.transition import models

# Fractions of a jump: its ends and its middle lie so many widths from its
# midpoint.
ENDS = np.array([-0.5, 0.0, 0.5])
# Nearly all that a jump over two measurements leaves of them is leverage;
# dividing by what is left says nothing any more.
_MAX_LEVERAGE = 0.9
# Drifts whose BIC is this near the best one's also have a say: which drift lies
# under a jump is rarely clear, and moves its ends.
RIVAL_BIC = 4.0
_N_ITERATIONS = 4
_RIDGE = 1e-9
# Other jumps whose likelihood is looked at: widths in units of the fitted one,
# midpoints off it in units of the other jump's width.
_WIDTHS = 2.0 ** np.linspace(-4, 4, 25)
_OFFSETS = np.linspace(-1, 1, 21)


def estimate_intervals(
  curve: models.Curve,
  fitted: models.Fit,
  replicates: int,
  confidence: float,
  rng: np.random.Generator,
) -> np.ndarray:
  """Intervals [jumps, 4, 2] of what `points` gives.

  Those of the bootstraps, and of the likelihood where that reaches further:
  in slow noise one step of the noise may pass for the jump, and replicates of
  a jump fitted too narrow all agree on it.

  Args:
    curve: what was fitted.
    fitted: with jumps.
    replicates: of each bootstrap.
    confidence: nominal coverage.
    rng: to draw with.
  """
  resampled = bootstrap(curve, fitted, replicates, confidence, rng)
  profiles = [
    likely(curve, fitted, index, confidence)
    for index in range(fitted.model.jumps)
  ]
  both = np.stack([resampled, np.stack(profiles)])
  return np.stack([both[..., 0].min(0), both[..., 1].max(0)], axis=-1)


def span_rivals(
  curve: models.Curve,
  rivals: list[models.Fit],
  replicates: int,
  confidence: float,
  rng: np.random.Generator,
) -> np.ndarray:
  """Intervals [jumps, 4, 2] that hold those of every fit that may be right.

  Args:
    curve: what was fitted.
    rivals: fits with as many jumps, one a drift, the best first.
    replicates: of each bootstrap.
    confidence: nominal coverage.
    rng: to draw with.
  """
  best = points(curve, rivals[0])[:, 1]
  plausible = []
  for fit in rivals:
    if fit.bic > rivals[0].bic + RIVAL_BIC:
      continue
    # Rivals may have found the same jumps in another order.
    order = [
      int(np.argmin(np.abs(points(curve, fit)[:, 1] - midpoint)))
      for midpoint in best
    ]
    bounds = estimate_intervals(curve, fit, replicates, confidence, rng)
    plausible.append(bounds[order])
  low = np.min([each[..., 0] for each in plausible], axis=0)
  high = np.max([each[..., 1] for each in plausible], axis=0)
  return np.stack([low, high], axis=-1)


def likely(
  curve: models.Curve, fitted: models.Fit, index: int, confidence: float
) -> np.ndarray:
  """[4, 2]: profile-likelihood intervals of one jump's points.

  Of midpoint and width on a grid around the fit, with the coefficients at
  their best and all else as fitted: the points of every jump whose
  likelihood ratio to the best is within the chi-square quantile (Venzon and
  Moolgavkar 1988). Coarse where the fit is sure, so never used alone.
  """
  midpoint, width = models.jumps_of(curve, fitted.model, fitted.theta)[index]
  widths = width * _WIDTHS[:, None]
  others = np.broadcast_arrays(midpoint + widths * _OFFSETS, np.log(widths))
  theta = np.tile(fitted.theta, (others[0].size, 1))
  theta[:, 1 + 2 * index] = others[0].ravel()
  theta[:, 2 + 2 * index] = others[1].ravel()
  theta = np.clip(
    theta, *np.transpose(models.theta_bounds(curve, fitted.model))
  )
  columns = np.moveaxis(models.design(curve, fitted.model, theta), 1, 0)
  white = models.whiten(curve, fitted.theta[0], columns)  # [N, G, linear]
  height = models.whiten(curve, fitted.theta[0], curve.height)
  basis, _ = np.linalg.qr(np.moveaxis(white, 0, 1))
  explained = np.sum((height @ basis) ** 2, axis=-1)  # [G]
  n = len(curve.time)
  variance = (height @ height - explained) / n + models.NOISE_FLOOR**2
  ratio = n * np.log(variance / variance.min())
  near = theta[ratio <= stats.chi2.ppf(confidence, 1)]
  found = _points(curve, fitted, near)[:, index]
  return np.stack([found.min(0), found.max(0)], axis=-1)


def bootstrap(
  curve: models.Curve,
  fitted: models.Fit,
  replicates: int,
  confidence: float,
  rng: np.random.Generator,
) -> np.ndarray:
  """[jumps, 4, 2]: percentiles of refits of two kinds of replicates.

  Refits are Gauss-Newton from the fit; the wider of both kinds counts. One
  draws innovations again in blocks of about N^(1/3), which keeps what
  correlation AR(1) leaves (Künsch 1989). The other gives every innovation a
  random sign where it is, over 1 - leverage, and so knows that noise and
  misfit are larger at the jump than on the plateaus (wild bootstrap, Wu 1986;
  HC3, MacKinnon and White 1985).
  """
  rho = fitted.theta[0]
  shape = fitted.model, fitted.theta
  columns = models.design(curve, *shape)
  slopes = models.jacobian(curve, *shape, fitted.coefficients, columns)
  white = models.whiten(curve, rho, slopes)  # [N, parameters]
  residual = curve.height - models.mean(curve, fitted)
  innovations = models.whiten(curve, rho, residual)
  leverage = np.sum(white.T * np.linalg.pinv(white, rcond=1e-10), axis=0)
  n, size = white.shape
  drawn = _draw_blocks(innovations, replicates, rng)
  drawn *= np.sqrt(n / (n - size - 1))
  signs = rng.choice([-1.0, 1.0], size=(n, replicates))
  inflated = innovations / (1 - np.clip(leverage, 0, _MAX_LEVERAGE))
  quantiles = (1 - confidence) / 2, (1 + confidence) / 2
  ranges = []
  for noise in (drawn, inflated[:, None] * signs):
    replicas = models.simulate(curve, fitted, noise)
    found = _points(curve, fitted, _refit(curve, fitted, replicas))
    ranges.append(np.quantile(found, quantiles, axis=0))
  low = np.min([each[0] for each in ranges], axis=0)
  high = np.max([each[1] for each in ranges], axis=0)
  return np.stack([low, high], axis=-1)


def points(curve: models.Curve, fitted: models.Fit) -> np.ndarray:
  """[jumps, 4]: onset, midpoint, completion and width, in time."""
  return _points(curve, fitted, fitted.theta)


def _points(
  curve: models.Curve, fitted: models.Fit, theta: np.ndarray
) -> np.ndarray:
  """[..., jumps, 4] of theta [..., n]."""
  jumps = models.jumps_of(curve, fitted.model, theta)
  midpoint, width = jumps[..., :1], jumps[..., 1:]
  return np.concatenate([midpoint + width * ENDS, width], axis=-1)


def _draw_blocks(
  innovations: np.ndarray, replicates: int, rng: np.random.Generator
) -> np.ndarray:
  """[N, replicates]: circular blocks of the innovations, centred."""
  n = len(innovations)
  length = max(1, round(n ** (1 / 3)))
  firsts = rng.integers(n, size=(-(-n // length), 1, replicates))
  places = (firsts + np.arange(length)[:, None]) % n  # [blocks, length, B]
  centred = innovations - innovations.mean()
  return centred[places.reshape(-1, replicates)[:n]]


def _refit(
  curve: models.Curve, fitted: models.Fit, curves: np.ndarray
) -> np.ndarray:
  """[B, theta] of curves [N, B]: Gauss-Newton, rho kept."""
  b, n_linear = curves.shape[1], len(fitted.coefficients)
  rho = fitted.theta[0]
  low, high = np.transpose(models.theta_bounds(curve, fitted.model))
  theta = np.tile(fitted.theta, (b, 1))
  coefficients = np.tile(fitted.coefficients, (b, 1))
  for _ in range(_N_ITERATIONS):
    columns = models.design(curve, fitted.model, theta)  # [B, N, linear]
    residual = curves.T - np.einsum("bnc,bc->bn", columns, coefficients)
    slopes = models.jacobian(curve, fitted.model, theta, coefficients, columns)
    slopes = models.whiten(curve, rho, np.moveaxis(slopes, 1, 0))  # [N, B, p]
    residual = models.whiten(curve, rho, residual.T)  # [N, B]
    # Matrix products, where einsum would loop.
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
  curve: models.Curve, fitted: models.Fit, theta: np.ndarray
) -> np.ndarray:
  """[B, theta - 1]: how far a step may go; half a width for a midpoint.

  Beyond that a jump's slope says nothing of where it is.
  """
  farthest = np.full_like(theta[:, 1:], 0.5)
  jumps = models.jumps_of(curve, fitted.model, theta)
  farthest[:, : 2 * fitted.model.jumps : 2] = jumps[..., 1] / 2
  return farthest
