"""Events of curvature in a run: when a signal rises, and when it peaks.

The signals are measures of curvature, and for comparison the scalars that every
training run has.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import xarray as xr

from induction_jax.transition import MIN_POINTS
from induction_jax.transition.events import Excursion, date_excursion

# Steps that are left out. In them curvature and loss fall from their values at
# initialisation, which neither a drift nor noise describes.
WARM_UP = 100


class Signal(NamedTuple):
  """A signal [N] at the steps [N] at which it was measured."""

  steps: np.ndarray
  values: np.ndarray


Read = Callable[[xr.Dataset], xr.DataArray]


def _log(name: str, sign: int = 1) -> Read:
  """Reads the logarithm of a norm or of the first eigenvalue of an end."""

  def read(results: xr.Dataset) -> xr.DataArray:
    values = sign * results[name]
    first = values if values.ndim == 1 else values[:, 0]
    return xr.apply_ufunc(np.log, first)

  return read


def _loss_slope(results: xr.Dataset) -> xr.DataArray:
  loss = results["induction_loss"].dropna("step")
  return -loss.diff("step") / loss.step.diff("step")


# Each signal rises at the transition. Eigenvalues and norms are logarithms. The
# losses are measured on held-out sequences of the `repeats` task.
CURVATURE: dict[str, Read] = {
  "top_eigenvalue": _log("top_eigenvalues"),
  "preconditioned_top_eigenvalue": _log("preconditioned_top_eigenvalues"),
  "negative_bottom_eigenvalue": _log("bottom_eigenvalues", sign=-1),
  "trace": lambda results: results["trace"],
  "gradient_alignment": lambda results: results["top_alignment_total"],
}
SCALARS: dict[str, Read] = {
  "gradient_norm": _log("gradient_norm"),
  "training_gradient_norm": _log("train_grad_norm"),
  "loss_slope": _loss_slope,
  "fall_of_loss": lambda results: -results["induction_loss"],
}


def read_signals(results: xr.Dataset) -> dict[str, Signal]:
  """Reads the signals with enough measurements after the warm-up.

  Measurements whose logarithm is undefined are left out.
  """
  signals = {}
  for name, read in (CURVATURE | SCALARS).items():
    try:
      with np.errstate(invalid="ignore", divide="ignore"):
        values = read(results)
    except KeyError:  # the run did not measure it
      continue
    values = values.where(np.isfinite(values)).dropna("step")
    values = values.sel(step=slice(WARM_UP, None))
    if values.sizes["step"] >= MIN_POINTS:
      steps = values.step.values.astype(float)
      signals[name] = Signal(steps, values.values.astype(float))
  return signals


def date_events(results: xr.Dataset) -> dict[str, Excursion]:
  """Dates the rise and the peak of every signal independently.

  The result is empty if no measure of curvature has enough measurements, since
  the scalars only serve as a comparison. Takes about a second per signal.
  """
  signals = read_signals(results)
  if not signals.keys() & CURVATURE.keys():
    return {}
  return {name: date_excursion(*signal) for name, signal in signals.items()}
