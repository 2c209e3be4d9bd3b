"""Learning curves as drift, or drift and one jump, in AR(1) noise.

A drift is constant, linear, or a power law of the step (as a Box-Cox
transform, so that p = 0 is the logarithm and p = 1 is linear). A jump is a
logistic in the step. Every model is linear in its coefficients given a few
shape parameters theta = [rho, midpoint, log width, power], of which it uses
those it has; so the coefficients and the noise variance are eliminated
(variable projection, Golub and Pereyra 1973), theta is searched on a grid,
and the best cells are refined.

The noise is stationary with correlation rho^(gap / median gap) between
neighbours: AR(1) where the steps are even, its continuous-time form where they
are not. Time here runs from 0 to 1 over the run and heights span 1.
"""

from typing import NamedTuple

import numpy as np
from scipy import optimize, special

DRIFTS = ("constant", "linear", "power")
# The 10-90 % width of expit(x), 2 log 9: widths mean that throughout.
LOGISTIC_WIDTH = 2 * np.log(9)
MAX_RHO = 0.99
MAX_POWER = 2.0
# Standard deviation, as a fraction of the signal's range, below which a
# residual is a matter of the model's shape and not evidence of anything.
NOISE_FLOOR = 1e-3
# A jump over three measurements rests on two or three residuals that are
# nearly 0 because the fit passes through them; dividing by what is left of
# them (1 - leverage) says nothing any more.
MAX_LEVERAGE = 0.9

_RHO_GRID = (0.0, 0.3, 0.6, 0.8, 0.9, 0.95, 0.98)
_POWER_GRID = np.linspace(-MAX_POWER, MAX_POWER, 9)
_MAX_MIDPOINTS = 100
_N_WIDTHS = 8
_N_STARTS = 3


class Curve(NamedTuple):
  """A learning curve in the units of the run: both axes span 1."""

  time: np.ndarray  # [N], from 0 to 1
  height: np.ndarray  # [N]
  age: np.ndarray  # [N], step over last step, both one gap on: never 0
  gaps: np.ndarray  # [N - 1]
  centres: np.ndarray  # [N - 1], of the gaps
  lags: np.ndarray  # [N - 1], gaps over the median gap


class Model(NamedTuple):
  """Which drift, and whether there is a jump on top of it."""

  drift: str
  jump: bool


class Fit(NamedTuple):
  """The most likely curve of one model."""

  model: Model
  theta: np.ndarray  # rho, then midpoint and log width, then power
  coefficients: np.ndarray  # level, slope if there is one, jump last
  noise_sd: float  # marginal, not of the innovations
  bic: float


def make_curve(steps: np.ndarray, signal: np.ndarray) -> Curve:
  """Scales both axes; the signal must not be constant."""
  time = (steps - steps[0]) / (steps[-1] - steps[0])
  gaps = np.diff(time)
  lag = np.median(np.diff(steps))
  return Curve(
    time=time,
    height=(signal - signal.mean()) / np.ptp(signal),
    age=(steps + lag) / (steps[-1] + lag),
    gaps=gaps,
    centres=(time[1:] + time[:-1]) / 2,
    lags=gaps / np.median(gaps),
  )


def fit_drifts(curve: Curve, jump: bool) -> list[Fit]:
  """One fit for each drift, with or without a jump; the lowest BIC first."""
  fits = [fit(curve, Model(drift, jump)) for drift in DRIFTS]
  return sorted(fits, key=lambda each: each.bic)


def fit(curve: Curve, model: Model) -> Fit:
  """Maximum likelihood; the optimiser starts from the best grid cells.

  BIC counts level, slope, power, and three parameters of a jump; rho and the
  variance are common to all models.
  """
  bounds = _bounds(curve, model)

  def cost(theta: np.ndarray) -> float:
    return -_log_likelihood(curve, model, theta)

  refined = [
    optimize.minimize(cost, start, method="L-BFGS-B", bounds=bounds)
    for start in _starts(curve, model)
  ]
  best = min(refined, key=lambda each: each.fun)
  coefficients, variance = _project(curve, model, best.x)
  size = 1 + DRIFTS.index(model.drift) + 3 * model.jump
  bic = 2 * best.fun + size * np.log(len(curve.time))
  return Fit(model, best.x, coefficients, float(np.sqrt(variance)), float(bic))


def jump_width(curve: Curve, midpoint: float, log_width: float) -> float:
  """10-90 % width, at least half the gap between the steps around it.

  A narrower jump falls between two measurements and has no width to fit.
  """
  gap = np.interp(midpoint, curve.centres, curve.gaps)
  return max(np.exp(log_width), gap / 2)


def visible_jump(curve: Curve, fit: Fit) -> float:
  """Height of the fitted jump between the first step and the last."""
  logistic = _logistic(curve, *fit.theta[1:3])
  return fit.coefficients[-1] * (logistic[-1] - logistic[0])


def covariance(curve: Curve, fit: Fit) -> tuple[np.ndarray, np.ndarray]:
  """Two covariances [2, 2] of midpoint and log width, for a fit with a jump.

  The first trusts the noise model; the second (a sandwich with leverages,
  HC3; MacKinnon and White 1985) takes each innovation's own size, so it knows
  that noise and misfit are larger at the jump than on the plateaus. Both are
  zero for a jump between two measurements, of which nothing more is known:
  the caller widens to the gap.
  """
  midpoint, log_width = fit.theta[1:3]
  if np.exp(log_width) <= 1.001 * jump_width(curve, midpoint, -np.inf):
    return np.zeros((2, 2)), np.zeros((2, 2))
  rho, n_drift = fit.theta[0], len(fit.coefficients) - 1
  columns = [_design(curve, fit.model, fit.theta)]
  columns += [_mean_derivative(curve, fit, i) for i in range(1, len(fit.theta))]
  jacobian = np.column_stack(columns)
  white = _whiten(curve, rho, jacobian)  # [N, parameters]
  design = white[:, : len(fit.coefficients)]
  innovations = _whiten(curve, rho, curve.height) - design @ fit.coefficients
  inverse = np.linalg.pinv(white, rcond=1e-10)  # [parameters, N]
  leverage = np.clip(np.sum(white.T * inverse, axis=0), 0, MAX_LEVERAGE)
  noise_model = fit.noise_sd**2 * inverse @ inverse.T
  sandwich = (inverse * (innovations / (1 - leverage)) ** 2) @ inverse.T
  jump = slice(n_drift + 1, n_drift + 3)
  return noise_model[jump, jump], sandwich[jump, jump]


def _bounds(curve: Curve, model: Model) -> list[tuple[float, float]]:
  bounds = [(0.0, MAX_RHO)]
  if model.jump:
    # A jump less than half of which was seen is an exponential: its midpoint
    # is anywhere beyond, so it is put at the end of the run.
    bounds += [(0.0, 1.0), (np.log(curve.gaps.min() / 2), np.log(2.0))]
  if model.drift == "power":
    bounds += [(-MAX_POWER, MAX_POWER)]
  return bounds


def _design(curve: Curve, model: Model, theta: np.ndarray) -> np.ndarray:
  """Columns: level, drift if any, jump if any."""
  columns = [np.ones_like(curve.time)]
  if model.drift == "linear":
    columns.append(curve.time)
  if model.drift == "power":
    columns.append(special.boxcox(curve.age, theta[-1]))
  if model.jump:
    columns.append(_logistic(curve, theta[1], theta[2]))
  return np.column_stack(columns)  # [N, coefficients]


def _logistic(curve: Curve, midpoint: float, log_width: float) -> np.ndarray:
  width = jump_width(curve, midpoint, log_width)
  return special.expit(LOGISTIC_WIDTH * (curve.time - midpoint) / width)


def _mean_derivative(curve: Curve, fit: Fit, index: int) -> np.ndarray:
  delta = np.zeros_like(fit.theta)
  delta[index] = 1e-5
  after = _design(curve, fit.model, fit.theta + delta)
  before = _design(curve, fit.model, fit.theta - delta)
  return (after - before) @ fit.coefficients / 2e-5


def _decay(curve: Curve, rho: float) -> np.ndarray:
  return rho**curve.lags


def _whiten(curve: Curve, rho: float, values: np.ndarray) -> np.ndarray:
  """Innovations over their standard deviation in units of the noise's."""
  decay = _decay(curve, rho).reshape(-1, *[1] * (values.ndim - 1))
  white = np.array(values)
  white[1:] -= decay * values[:-1]
  white[1:] /= np.sqrt(1 - decay**2)
  return white


def _project(
  curve: Curve, model: Model, theta: np.ndarray
) -> tuple[np.ndarray, float]:
  """The coefficients and the noise variance that go best with theta."""
  design = _whiten(curve, theta[0], _design(curve, model, theta))
  height = _whiten(curve, theta[0], curve.height)
  coefficients = np.linalg.lstsq(design, height, rcond=None)[0]
  residual = height - design @ coefficients
  return coefficients, np.mean(residual**2) + NOISE_FLOOR**2


def _log_likelihood(curve: Curve, model: Model, theta: np.ndarray) -> float:
  """Up to a constant; Gaussian, coefficients and variance at their best."""
  variance = _project(curve, model, theta)[1]
  return float(_score(curve, theta[0], np.asarray(variance)))


def _score(curve: Curve, rho: float, variance: np.ndarray) -> np.ndarray:
  log_det = np.sum(np.log1p(-(_decay(curve, rho) ** 2)))
  return -0.5 * (len(curve.time) * np.log(variance) + log_det)


def _starts(curve: Curve, model: Model) -> list[np.ndarray]:
  """The best cells of the grid, at most one for each jump width."""
  powers = [(power,) for power in _POWER_GRID]
  cells: list[tuple[float, ...]] = _jump_cells(curve) if model.jump else [()]
  jumps = [_logistic(curve, *cell) for cell in cells if cell]
  best: dict[float | None, tuple[float, np.ndarray]] = {}
  for rho in _RHO_GRID:
    white = _whiten(curve, rho, np.column_stack(jumps)) if jumps else None
    for power in powers if model.drift == "power" else [()]:
      scores = _grid_scores(curve, Model(model.drift, False), rho, power, white)
      for cell, score in zip(cells, scores):
        width = cell[1] if cell else None
        if width not in best or score > best[width][0]:
          best[width] = score, np.array([rho, *cell, *power])
  ranked = sorted(best.values(), key=lambda pair: -pair[0])
  return [theta for _, theta in ranked[:_N_STARTS]]


def _jump_cells(curve: Curve) -> list[tuple[float, ...]]:
  """Midpoint and log width; midpoints as dense as the measurements."""
  stride = -(-len(curve.time) // _MAX_MIDPOINTS)
  centres = curve.centres[::stride]
  widths = np.linspace(np.log(np.median(curve.gaps) / 2), 0.0, _N_WIDTHS)
  return [(midpoint, width) for width in widths for midpoint in centres]


def _grid_scores(
  curve: Curve,
  drift: Model,
  rho: float,
  power: tuple[float, ...],
  jumps: np.ndarray | None,
) -> np.ndarray:
  """Log likelihood of the drift with each whitened column of jumps [N, G]."""
  design = _design(curve, drift, np.array([rho, *power]))
  basis, _ = np.linalg.qr(_whiten(curve, rho, design))
  height = _whiten(curve, rho, curve.height)
  height = height - basis @ (basis.T @ height)
  explained = np.zeros(1)
  if jumps is not None:
    # Gram-Schmidt against the drift; a column inside its span gains nothing.
    squares = np.sum(jumps**2, axis=0)
    beyond = squares - np.sum((basis.T @ jumps) ** 2, axis=0)
    independent = beyond > 1e-9 * squares
    beyond = np.where(independent, beyond, np.inf)
    explained = (height @ jumps) ** 2 / beyond
  variance = (height @ height - explained) / len(height) + NOISE_FLOOR**2
  return _score(curve, rho, np.maximum(variance, NOISE_FLOOR**2))
