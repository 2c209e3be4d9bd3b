"""How well the times of fitted jumps are known: bootstraps of the fit."""

import numpy as np

from induction_jax.transition import models

# Fractions of a jump: its ends and its middle lie so many widths from its
# midpoint.
ENDS = np.array([-0.5, 0.0, 0.5])
# Nearly all that a jump over two measurements leaves of them is leverage;
# dividing by what is left says nothing any more.
_MAX_LEVERAGE = 0.9
_N_ITERATIONS = 4
_RIDGE = 1e-9


def bootstrap(
  curve: models.Curve,
  fitted: models.Fit,
  replicates: int,
  confidence: float,
  rng: np.random.Generator,
) -> np.ndarray:
  """Intervals [jumps, 4, 2] of what `points` gives.

  Percentiles of refits (Gauss-Newton from the fit) of two kinds of replicates,
  the wider of both: innovations drawn again in blocks of about N^(1/3), which
  keeps what correlation AR(1) leaves (Künsch 1989); and every innovation
  with a random sign where it is, over 1 - leverage, which knows that noise
  and misfit are larger at the jump than on the plateaus (wild bootstrap, Wu
  1986; HC3, MacKinnon and White 1985).

  Args:
    curve: what was fitted.
    fitted: with jumps.
    replicates: of each kind.
    confidence: nominal coverage.
    rng: to draw with.
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
    normal = np.einsum("nbp,nbq->bpq", slopes, slopes)
    scale = np.einsum("bpp->bp", normal)
    normal += _RIDGE * np.eye(normal.shape[-1]) * (scale[:, None] + 1e-12)
    right = np.einsum("nbp,nb->bp", slopes, residual)
    change = np.linalg.solve(normal, right[..., None])[..., 0]
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
