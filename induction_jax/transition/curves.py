"""Learning curves as a drift plus logistic jumps in AR(1) noise.

A drift is constant, linear, or a power law of the step (as a Box-Cox
transform, in which power 0 is the logarithm and power 1 is linear). A jump is
a logistic function of time. Given its shape theta = [rho, midpoint and log
width of each jump, power], a model is linear in its coefficients [level, slope
of the drift, height of each jump]. The coefficients and the noise variance are
therefore eliminated (variable projection, Golub and Pereyra 1973). Entries of
theta that a model does not use are left out.

The noise is stationary. Its correlation between neighbouring measurements is
rho^(gap / median gap), which is AR(1) at even steps and the continuous-time
form of AR(1) at uneven ones. Time runs from 0 to 1 over the run, and heights
are in units of the signal's range.
"""

from typing import NamedTuple

import numpy as np
from scipy import optimize, special

DRIFTS = ("constant", "linear", "power")
# expit(x) rises from 10 to 90 % over 2 log 9. Every width is a 10-90 % width.
LOGISTIC_WIDTH = 2 * np.log(9)
MAX_RHO = 0.99
MAX_POWER = 2.0
# Residuals below this standard deviation, as a fraction of the signal's range,
# come from the logistic being only an approximation. They are not evidence.
NOISE_FLOOR = 1e-3
_DELTA = 1e-5  # of the central difference in the power


class Curve(NamedTuple):
  """A learning curve whose two axes are scaled to span 1."""

  steps: np.ndarray  # [N]
  time: np.ndarray  # [N], from 0 to 1
  height: np.ndarray  # [N], mean 0
  age: np.ndarray  # [N], (step + gap) / (last step + gap), never 0
  lags: np.ndarray  # [N - 1], gaps in steps over the median gap
  gap: float  # the median gap, in steps
  log_time: bool


class CurveModel(NamedTuple):
  """A kind of drift and the number of jumps added to it."""

  drift: str
  jumps: int


class Fit(NamedTuple):
  """The maximum-likelihood curve of one model."""

  model: CurveModel
  theta: np.ndarray  # rho, then midpoint and log width of each jump, power
  coefficients: np.ndarray  # level, slope of the drift, height of each jump
  noise_sd: float  # marginal standard deviation, not that of the innovations
  bic: float


def make_curve(
  steps: np.ndarray, signal: np.ndarray, log_time: bool = False
) -> Curve:
  """Scales both axes of a signal that is not constant."""
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
  """Converts times to steps, extrapolating beyond the run's ends."""
  first, last = curve.steps[0], curve.steps[-1]
  if not curve.log_time:
    return first + time * (last - first)
  ratio = (last + curve.gap) / (first + curve.gap)
  return (first + curve.gap) * ratio**time - curve.gap


def fit(curve: Curve, model: CurveModel, start: np.ndarray) -> Fit:
  """Maximises the likelihood from a starting theta.

  The BIC counts the level, slope and power of the drift and three parameters
  of each jump. It leaves out rho and the variance, which every model has.
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


def theta_bounds(curve: Curve, model: CurveModel) -> list[tuple[float, float]]:
  """Bounds of each entry of theta."""
  bounds = [(0.0, MAX_RHO)]
  # Less than half of a logistic looks like an exponential, which does not
  # determine the midpoint. The bound keeps it at the end of the run.
  narrowest = np.log(np.diff(curve.time).min() / 2)
  bounds += [(0.0, 1.0), (narrowest, np.log(2.0))] * model.jumps
  if model.drift == "power":
    bounds += [(-MAX_POWER, MAX_POWER)]
  return bounds


def jumps_of(curve: Curve, model: CurveModel, theta: np.ndarray) -> np.ndarray:
  """Midpoints and widths in time, [..., jumps, 2], of theta [..., n]."""
  jumps = theta[..., 1 : 1 + 2 * model.jumps]
  jumps = jumps.reshape(*theta.shape[:-1], model.jumps, 2)
  widths = jump_width(curve, jumps[..., 0], jumps[..., 1])
  return np.stack([jumps[..., 0], widths], axis=-1)


def jump_width(
  curve: Curve, midpoint: np.ndarray, log_width: np.ndarray
) -> np.ndarray:
  """The width of a jump, at least half the gap between the steps around it.

  A narrower jump falls between two measurements, which determine no width.
  """
  centres = (curve.time[1:] + curve.time[:-1]) / 2
  gap = np.interp(midpoint, centres, np.diff(curve.time))
  return np.maximum(np.exp(log_width), gap / 2)


def logistic(
  curve: Curve, midpoint: np.ndarray, width: np.ndarray
) -> np.ndarray:
  """Unit jumps [..., N] with the given midpoints and widths [...]."""
  since = curve.time - np.asarray(midpoint)[..., None]
  return special.expit(LOGISTIC_WIDTH * since / np.asarray(width)[..., None])


def rises(curve: Curve, fitted: Fit) -> np.ndarray:
  """Signed rise [jumps] of each jump between the first and the last step.

  It is smaller than the coefficient where part of the jump lies outside the
  run. The unit is the signal's range.
  """
  jumps = jumps_of(curve, fitted.model, fitted.theta)
  risen = logistic(curve, jumps[:, 0], jumps[:, 1])
  heights = fitted.coefficients[len(fitted.coefficients) - len(jumps) :]
  return heights * (risen[:, -1] - risen[:, 0])


def design(curve: Curve, model: CurveModel, theta: np.ndarray) -> np.ndarray:
  """Columns [..., N, coefficients] for level, drift and jumps."""
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
  model: CurveModel,
  theta: np.ndarray,
  coefficients: np.ndarray,
  columns: np.ndarray,
) -> np.ndarray:
  """Derivatives of the mean, [..., N, coefficients + shape].

  The shape is theta without rho, on which the mean does not depend.

  Args:
    curve: the curve.
    model: its model.
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
    # A width at its lower bound does not depend on theta.
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
  """The fitted curve [N], in units of the signal's range."""
  return design(curve, fitted.model, fitted.theta) @ fitted.coefficients


def simulate(curve: Curve, fitted: Fit, innovations: np.ndarray) -> np.ndarray:
  """Simulates curves [N, B] of a fit from innovations [N, B].

  An autocorrelation estimated together with the p parameters of a mean is too
  small by about (p + (2 + p) rho) / N (Kendall 1954 for p = 1). This bias is
  corrected here, because too small a correlation would make jumps look more
  certain than they are. The innovations keep their size, so that the variance
  of the noise grows with the correlation.
  """
  n, rho = len(curve.time), fitted.theta[0]
  p = len(fitted.coefficients) + len(fitted.theta) - 1
  slower = min(rho + (p + (2 + p) * rho) / n, MAX_RHO)
  larger = np.sqrt((1 - rho**2) / (1 - slower**2))
  noise = larger * _colour(curve, slower, innovations)
  return mean(curve, fitted)[:, None] + noise


def decay(curve: Curve, rho: float) -> np.ndarray:
  """Correlation of the noise between neighbouring measurements, [N - 1]."""
  return rho**curve.lags


def whiten(curve: Curve, rho: float, values: np.ndarray) -> np.ndarray:
  """Innovations [N, ...] of values, scaled to the noise's marginal variance."""
  kept = decay(curve, rho).reshape(-1, *[1] * (values.ndim - 1))
  white = np.array(values)
  white[1:] -= kept * values[:-1]
  white[1:] /= np.sqrt(1 - kept**2)
  return white


def log_likelihood(
  curve: Curve, rho: float, variance: np.ndarray
) -> np.ndarray:
  """Gaussian log likelihood at the optimal variance, up to a constant."""
  log_det = np.sum(np.log1p(-(decay(curve, rho) ** 2)))
  return -0.5 * (len(curve.time) * np.log(variance) + log_det)


def _log_likelihood(
  curve: Curve, model: CurveModel, theta: np.ndarray
) -> float:
  variance = np.asarray(_project(curve, model, theta)[1])
  return float(log_likelihood(curve, theta[0], variance))


def _project(
  curve: Curve, model: CurveModel, theta: np.ndarray
) -> tuple[np.ndarray, float]:
  """The maximum-likelihood coefficients and noise variance at a theta."""
  columns = whiten(curve, theta[0], design(curve, model, theta))
  height = whiten(curve, theta[0], curve.height)
  coefficients = np.linalg.lstsq(columns, height, rcond=None)[0]
  residual = height - columns @ coefficients
  return coefficients, np.mean(residual**2) + NOISE_FLOOR**2


def _colour(curve: Curve, rho: float, innovations: np.ndarray) -> np.ndarray:
  """Noise [N, ...] from innovations, the inverse of `whiten`."""
  noise = np.array(innovations)
  for i, kept in enumerate(decay(curve, rho)):
    noise[i + 1] = kept * noise[i] + np.sqrt(1 - kept**2) * innovations[i + 1]
  return noise
