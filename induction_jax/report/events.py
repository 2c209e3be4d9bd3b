"""Events of curvature, and of the scalars beside it, in a run's results."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import xarray as xr

from induction_jax.transition import MIN_POINTS
from induction_jax.transition.events import Excursion, date_excursion

# Until then curvature and loss fall from where chance put them, further than
# noise goes and faster than a drift does.
WARM_UP = 100  # steps


class Signal(NamedTuple):
  """A signal over its own steps [N]."""

  steps: np.ndarray
  values: np.ndarray


Read = Callable[[xr.Dataset], xr.DataArray]


def _log(name: str, sign: int = 1) -> Read:
  """Of a norm, or of the first eigenvalue of one end."""

  def read(results: xr.Dataset) -> xr.DataArray:
    values = sign * results[name]
    first = values if values.ndim == 1 else values[:, 0]
    return xr.apply_ufunc(np.log, first)

  return read


def _loss_slope(results: xr.Dataset) -> xr.DataArray:
  loss = results["induction_loss"].dropna("step")
  return -loss.diff("step") / loss.step.diff("step")


# Each rises with the transition; norms as logarithms, so that a rise is a
# factor. The losses are held out, on repeats.
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
  """The signals of which a run's results have enough measurements.

  Without the first WARM_UP steps, and only where the signal is defined (a
  logarithm of what is not positive is not).
  """
  signals = {}
  for name, read in (CURVATURE | SCALARS).items():
    try:
      with np.errstate(invalid="ignore", divide="ignore"):
        values = read(results)
    except KeyError:  # not measured in this run
      continue
    values = values.where(np.isfinite(values)).dropna("step")
    values = values.sel(step=slice(WARM_UP, None))
    if values.sizes["step"] >= MIN_POINTS:
      steps = values.step.values.astype(float)
      signals[name] = Signal(steps, values.values.astype(float))
  return signals


def date_events(results: xr.Dataset) -> dict[str, Excursion]:
  """Rise and peak of every signal, each dated without a look at another.

  Empty where curvature was measured too seldom, for the scalars are there to be
  compared with it. About a second a signal.
  """
  signals = read_signals(results)
  if not signals.keys() & CURVATURE.keys():
    return {}
  return {name: date_excursion(*signal) for name, signal in signals.items()}
