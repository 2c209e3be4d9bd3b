"""Learning curves as drift, or drift and some jumps, in AR(1) noise.

A drift is constant, linear, or a power law of the step (as a Box-Cox
transform, so that p = 0 is the logarithm and p = 1 is linear). A jump is a
logistic in time. Every model is linear in its coefficients given its shape,
theta = [rho, midpoint and log width of each jump, power], of which it uses
those it has; so the coefficients and the noise variance are eliminated
(variable projection, Golub and Pereyra 1973).

The noise is stationary with correlation rho^(gap / median gap) between
neighbours: AR(1) where the steps are even, its continuous-time form where they
are not. Time runs from 0 to 1 over the run, in steps or in their logarithm,
and heights span 1.
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
_DELTA = 1e-5


class Curve(NamedTuple):
  """A learning curve in the units of the run: both axes span 1."""

  steps: np.ndarray  # [N]
  time: np.ndarray  # [N], from 0 to 1
  height: np.ndarray  # [N], mean 0
  age: np.ndarray  # [N], step over last step, both one gap on: never 0
  lags: np.ndarray  # [N - 1], gaps in steps over the median gap
  gap: float  # the median gap, in steps
  log_time: bool


class Model(NamedTuple):
  """Which drift, and how many jumps on top of it."""

  drift: str
  jumps: int


class Fit(NamedTuple):
  """The most likely curve of one model."""

  model: Model
  theta: np.ndarray  # rho, then midpoint and log width of each jump, power
  coefficients: np.ndarray  # level, slope if there is one, the jumps
  noise_sd: float  # marginal, not of the innovations
  bic: float


def make_curve(
  steps: np.ndarray, signal: np.ndarray, log_time: bool = False
) -> Curve:
  """Scales both axes; the signal must not be constant."""
  gaps = np.diff(steps)
  gap = float(np.median(gaps))
  age = (steps + gap) / (steps[-1] + gap)
  axis = np.log(age) if log_time else steps
  return Curve(
    steps=steps,
    time=(axis - axis[0]) / (axis[-1] - axis[0]),
    height=(signal - signal.mean()) / np.ptp(signal),
    age=age,
    lags=gaps / gap,
    gap=gap,
    log_time=log_time,
  )


def steps_at(curve: Curve, time: np.ndarray) -> np.ndarray:
  """Steps of times, also of those beyond the run's ends."""
  first, last = curve.steps[0], curve.steps[-1]
  if not curve.log_time:
    return first + time * (last - first)
  ratio = (last + curve.gap) / (first + curve.gap)
  return (first + curve.gap) * ratio**time - curve.gap


def fit(curve: Curve, model: Model, start: np.ndarray) -> Fit:
  """Maximum likelihood near a start [theta].

  BIC counts level, slope, power, and three parameters of every jump; rho and
  the variance are common to all models.
  """
  bounds = theta_bounds(curve, model)

  def cost(theta: np.ndarray) -> float:
    return -_log_likelihood(curve, model, theta)

  start = np.clip(start, *np.transpose(bounds))
  best = optimize.minimize(cost, start, bounds=bounds)
  coefficients, variance = _project(curve, model, best.x)
  size = 1 + DRIFTS.index(model.drift) + 3 * model.jumps
  bic = 2 * best.fun + size * np.log(len(curve.time))
  sd = float(np.sqrt(variance))
  return Fit(model, best.x, coefficients, sd, float(bic))


def theta_bounds(curve: Curve, model: Model) -> list[tuple[float, float]]:
  """Of theta, in its order."""
  bounds = [(0.0, MAX_RHO)]
  # A jump less than half of which was seen is an exponential: its midpoint
  # is anywhere beyond, so it is put at the end of the run.
  narrowest = np.log(np.diff(curve.time).min() / 2)
  bounds += [(0.0, 1.0), (narrowest, np.log(2.0))] * model.jumps
  if model.drift == "power":
    bounds += [(-MAX_POWER, MAX_POWER)]
  return bounds


def jumps_of(curve: Curve, model: Model, theta: np.ndarray) -> np.ndarray:
  """[..., jumps, 2]: midpoint and 10-90 % width, in time, of theta [..., n]."""
  jumps = theta[..., 1 : 1 + 2 * model.jumps]
  jumps = jumps.reshape(*theta.shape[:-1], model.jumps, 2)
  widths = jump_width(curve, jumps[..., 0], jumps[..., 1])
  return np.stack([jumps[..., 0], widths], axis=-1)


def jump_width(
  curve: Curve, midpoint: np.ndarray, log_width: np.ndarray
) -> np.ndarray:
  """10-90 % width, at least half the gap between the steps around it.

  A narrower jump falls between two measurements and has no width to fit.
  """
  centres = (curve.time[1:] + curve.time[:-1]) / 2
  gap = np.interp(midpoint, centres, np.diff(curve.time))
  return np.maximum(np.exp(log_width), gap / 2)


def logistic(
  curve: Curve, midpoint: np.ndarray, width: np.ndarray
) -> np.ndarray:
  """[..., N]: unit jumps with midpoints and widths [...]."""
  since = curve.time - np.asarray(midpoint)[..., None]
  return special.expit(LOGISTIC_WIDTH * since / np.asarray(width)[..., None])


def rises(curve: Curve, fitted: Fit) -> np.ndarray:
  """[jumps]: how far each goes up from the first step to the last, in heights.

  Less than its coefficient where part of it lies beyond the run.
  """
  jumps = jumps_of(curve, fitted.model, fitted.theta)
  risen = logistic(curve, jumps[:, 0], jumps[:, 1])
  heights = fitted.coefficients[len(fitted.coefficients) - len(jumps) :]
  return heights * (risen[:, -1] - risen[:, 0])


def design(curve: Curve, model: Model, theta: np.ndarray) -> np.ndarray:
  """[..., N, coefficients] of theta [..., n]: level, drift, jumps."""
  one = np.ones((*theta.shape[:-1], len(curve.time)))
  columns = [one]
  if model.drift == "linear":
    columns.append(one * curve.time)
  if model.drift == "power":
    columns.append(special.boxcox(curve.age, theta[..., -1:]))
  jumps = jumps_of(curve, model, theta)
  for i in range(model.jumps):
    columns.append(logistic(curve, jumps[..., i, 0], jumps[..., i, 1]))
  return np.stack(columns, axis=-1)


def jacobian(
  curve: Curve,
  model: Model,
  theta: np.ndarray,
  coefficients: np.ndarray,
  columns: np.ndarray,
) -> np.ndarray:
  """[..., N, coefficients + shape] of the mean; the shape is without rho.

  Args:
    curve: the curve.
    model: of it.
    theta: [..., n].
    coefficients: [..., coefficients].
    columns: design(curve, model, theta).
  """
  slopes = list(np.moveaxis(columns, -1, 0))
  jumps = jumps_of(curve, model, theta)
  for i in range(model.jumps):
    midpoint, width = jumps[..., i, 0, None], jumps[..., i, 1, None]
    height = coefficients[..., i - model.jumps, None]
    risen = columns[..., i - model.jumps]
    steepness = height * risen * (1 - risen) * LOGISTIC_WIDTH / width
    # A width at its floor does not follow theta.
    free = np.exp(theta[..., 2 + 2 * i, None]) >= width
    slopes.append(-steepness)
    slopes.append(-steepness * (curve.time - midpoint) * free)
  if model.drift == "power":
    power, height = theta[..., -1:], coefficients[..., 1, None]
    ahead = special.boxcox(curve.age, power + _DELTA)
    behind = special.boxcox(curve.age, power - _DELTA)
    slopes.append(height * (ahead - behind) / (2 * _DELTA))
  return np.stack(slopes, axis=-1)


def mean(curve: Curve, fitted: Fit) -> np.ndarray:
  """[N]: the fitted curve, in heights."""
  return design(curve, fitted.model, fitted.theta) @ fitted.coefficients


def simulate(curve: Curve, fitted: Fit, innovations: np.ndarray) -> np.ndarray:
  """Curves [N, B] of a fit, from innovations [N, B] in its noise's units.

  An autocorrelation estimated beside p parameters of a mean is too small by
  about (p + (2 + p) rho) / N (for p = 1: Kendall 1954). Undone, here, for slow
  noise that is taken for fast makes jumps look surer than they are; the
  innovations keep their size, so the noise's variance grows.
  """
  n, rho = len(curve.time), fitted.theta[0]
  p = len(fitted.coefficients) + len(fitted.theta) - 1
  slower = min(rho + (p + (2 + p) * rho) / n, MAX_RHO)
  larger = np.sqrt((1 - rho**2) / (1 - slower**2))
  noise = larger * _colour(curve, slower, innovations)
  return mean(curve, fitted)[:, None] + noise


def decay(curve: Curve, rho: float) -> np.ndarray:
  """[N - 1]: correlation of the noise between neighbours."""
  return rho**curve.lags


def whiten(curve: Curve, rho: float, values: np.ndarray) -> np.ndarray:
  """Innovations [N, ...] over their sd in units of the noise's."""
  kept = decay(curve, rho).reshape(-1, *[1] * (values.ndim - 1))
  white = np.array(values)
  white[1:] -= kept * values[:-1]
  white[1:] /= np.sqrt(1 - kept**2)
  return white


def log_likelihood(
  curve: Curve, rho: float, variance: np.ndarray
) -> np.ndarray:
  """Up to a constant; Gaussian, with the variance at its best."""
  log_det = np.sum(np.log1p(-(decay(curve, rho) ** 2)))
  return -0.5 * (len(curve.time) * np.log(variance) + log_det)


def _log_likelihood(curve: Curve, model: Model, theta: np.ndarray) -> float:
  variance = np.asarray(_project(curve, model, theta)[1])
  return float(log_likelihood(curve, theta[0], variance))


def _project(
  curve: Curve, model: Model, theta: np.ndarray
) -> tuple[np.ndarray, float]:
  """The coefficients and the noise variance that go best with theta."""
  columns = whiten(curve, theta[0], design(curve, model, theta))
  height = whiten(curve, theta[0], curve.height)
  coefficients = np.linalg.lstsq(columns, height, rcond=None)[0]
  residual = height - columns @ coefficients
  return coefficients, np.mean(residual**2) + NOISE_FLOOR**2


def _colour(curve: Curve, rho: float, innovations: np.ndarray) -> np.ndarray:
  """Noise [N, ...] from innovations: the inverse of `whiten`."""
  noise = np.array(innovations)
  for i, kept in enumerate(decay(curve, rho)):
    noise[i + 1] = kept * noise[i] + np.sqrt(1 - kept**2) * innovations[i + 1]
  return noise
