"""Synthetic curves of a run's behaviour, whose transition is known."""

import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from scipy import signal as filters
from scipy import stats

from induction_jax.transition import curves, detector

RHOS = (0.0, 0.5, 0.8, 0.95)
WIDTHS = (0.01, 0.03, 0.1, 0.3)
HEIGHTS = (5.0, 10.0)  # amplitude over the noise's marginal sd
DRIFT_HEIGHT = 10.0  # range of a null over the noise's marginal sd
# With these midpoints a jump as wide as 30 % of the run lies inside the run,
# and is not as slow as the run is old.
MIDPOINTS = (0.35, 0.65)


class Cell(NamedTuple):
  """One kind of curve, a row of the tables."""

  kind: str  # constant | linear | power law | broken power law | logistic
  rho: float
  height: float  # of the drift or jump, in noise sds
  width: float  # of the jump, as a share of the run; 0 without one


def all_cells() -> list[Cell]:
  """Every kind of curve: the nulls, then the jumps."""
  nulls = [
    Cell(kind, rho, DRIFT_HEIGHT, 0.0)
    for kind in ("constant", "linear", "power law", "broken power law")
    for rho in RHOS
  ]
  jumps = [
    Cell("logistic", rho, height, width)
    for height in HEIGHTS
    for width in WIDTHS
    for rho in RHOS
  ]
  return nulls + jumps


def sample(
  cell: Cell, numbers: range, points: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
  """Yields steps, a curve and its true onset, midpoint and completion.

  Args:
    cell: the kind of curve.
    numbers: of the curves, which with the seed determine them.
    points: measurements of each curve, ten steps apart.
    seed: of all curves.
  """
  steps = 10.0 * np.arange(1, points + 1)
  age = steps / steps[-1]
  name = zlib.crc32(repr(cell).encode())
  for i in numbers:
    rng = np.random.default_rng([seed, name, i])
    noise = ar1(rng, points, cell.rho)
    if not cell.width:
      drift = SHAPES[cell.kind](age, rng)
      yield steps, cell.height * drift + noise, np.zeros(0)
      continue
    midpoint = rng.uniform(*MIDPOINTS)
    jump = logistic(age, midpoint, cell.width)
    times = midpoint + cell.width * np.array([-0.5, 0.0, 0.5])
    sign = rng.choice([-1, 1])
    yield steps, sign * cell.height * jump + noise, times * steps[-1]


def ar1(rng: np.random.Generator, points: int, rho: float) -> np.ndarray:
  """Stationary AR(1) noise of unit marginal variance."""
  fresh = rng.normal(size=points)
  fresh[1:] *= np.sqrt(1 - rho**2)
  return filters.lfilter([1.0], [1.0, -rho], fresh)


def logistic(age: np.ndarray, midpoint: float, width: float) -> np.ndarray:
  return 1 / (1 + np.exp(-curves.LOGISTIC_WIDTH * (age - midpoint) / width))


def power_law(age: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """A power of the step with exponent -1 to 1, scaled to a range of 1."""
  exponent = rng.choice([-1, 1]) * rng.uniform(0.1, 1.0)
  return unit(age**exponent) * rng.choice([-1, 1])


def broken_power_law(age: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """A smooth break between two exponents (Caballero et al. 2022, 2210.14891).

  y = age^-a (1 + (age / d)^(1 / f))^(-b f), scaled to a range of 1. The
  exponent is a from 0 to 0.5 before the break and a + b, with b from -0.4 to 1,
  after it. The break d is at 5 to 70 % of the run, with sharpness f from 0.05
  to 0.5.
  """
  a, b = rng.uniform(0, 0.5), rng.uniform(-0.4, 1.0)
  d = np.exp(rng.uniform(np.log(0.05), np.log(0.7)))
  f = rng.uniform(0.05, 0.5)
  return unit(age**-a * (1 + (age / d) ** (1 / f)) ** (-b * f))


def unit(curve: np.ndarray) -> np.ndarray:
  return (curve - curve[0]) / np.ptp(curve)


Shape = Callable[[np.ndarray, np.random.Generator], np.ndarray]
SHAPES: dict[str, Shape] = {
  "constant": lambda age, rng: np.zeros_like(age),
  "linear": lambda age, rng: age * rng.choice([-1, 1]),
  "power law": power_law,
  "broken power law": broken_power_law,
}


def most_power(cell: Cell, steps: np.ndarray, truth: np.ndarray) -> float:
  """Power of the most powerful test against the nearest power law.

  The log likelihood ratio of two known curves is normal. Its two means are d
  standard deviations apart, where d^2 is the whitened squared distance of the
  curves (Neyman and Pearson 1933).
  """
  curve = curves.make_curve(steps, steps)
  jump = cell.height * logistic(
    steps / steps[-1], truth[1] / steps[-1], cell.width
  )
  white = curves.whiten(curve, cell.rho, jump)
  nearest = np.inf
  for power in np.linspace(-curves.MAX_POWER, curves.MAX_POWER, 9):
    theta = np.array([cell.rho, power])
    drift = curves.design(curve, curves.CurveModel("power", 0), theta)
    basis, _ = np.linalg.qr(curves.whiten(curve, cell.rho, drift))
    left = white - basis @ (basis.T @ white)
    nearest = min(nearest, float(left @ left))
  critical = stats.norm.isf(detector.SIGNIFICANCE)
  return float(stats.norm.sf(critical - np.sqrt(nearest)))
