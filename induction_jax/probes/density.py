"""The whole Hessian spectrum: density, trace, Frobenius norm, counts."""

import jax
import jax.numpy as jnp
import numpy as np

from induction_jax import spectra
from induction_jax.config import Config
from induction_jax.probes.curvature import ROUNDING_PRODUCTS, Curvature
from induction_jax.probes.held_out import HeldOut
from induction_jax.probes.probe import Probe
from induction_jax.state import TrainState, stream
from induction_jax.types import Array, PyTree, Variable

# One grid for every step and every run, so that densities can be compared: a
# symmetric logarithmic axis, linear below KNEE nats and ending at 10^5 KNEE.
# Nodes lie about a tenth of a nat apart where eigenvalues crowd, so a smaller
# knee would show single nodes as peaks.
KNEE = 0.1
AXIS = spectra.symlog(KNEE)
WIDTH = 0.12  # of the Gaussians, in decades
PLACES = np.linspace(-5, 5, 201)  # two points to a width
EIGENVALUES = np.sign(PLACES) * KNEE * (10 ** np.abs(PLACES) - 1)
THRESHOLDS = (0.01, 0.1, 1.0, 10.0)  # nats

COUNTS = {
  "count_above": "eigenvalues above the threshold",
  "count_below": "eigenvalues below minus the threshold",
}
SIZES = {
  "trace": ("trace of the Hessian", "nats"),
  "square_frobenius": ("Hessian, squared Frobenius norm", "nats^2"),
}
VARIABLES = (
  Variable(
    "density",
    ("step", "eigenvalue"),
    "share of eigenvalues per decade of the symmetric logarithmic axis",
  ),
  Variable(
    "density_se",
    ("step", "eigenvalue"),
    "standard error of the density, over probes",
  ),
  *(
    Variable(name, ("step",), long, units)
    for name, (long, units) in SIZES.items()
  ),
  *(
    Variable(f"{name}_se", ("step",), f"standard error, {long}", units)
    for name, (long, units) in SIZES.items()
  ),
  *(
    Variable(f"{name}{suffix}", ("step", "threshold"), f"{long}{what}")
    for name, long in COUNTS.items()
    for suffix, what in (
      ("", ""),
      ("_low", ", lower bound: probes, truncation, rounding"),
      ("_high", ", upper bound: probes, truncation, rounding"),
    )
  ),
  Variable(
    "density_products", ("step",), "products, spectral density", "products"
  ),
)


def make_density_probe(config: Config, curvature: Curvature) -> Probe:
  """Stochastic Lanczos quadrature on the Hessian of the spectra probe."""
  c = config.density
  size = int(curvature.partition.sizes.sum())

  def measure(
    state: TrainState,
    held_out: HeldOut,
    hessian: spectra.Operator,
    carry: PyTree,
  ) -> tuple[dict[str, Array], PyTree]:
    key = jax.random.fold_in(stream(state.key, "spectra"), 7)
    rounding_key, probes_key = jax.random.split(key)
    rounding = curvature.rounding(state, held_out, hessian, rounding_key)
    rules = spectra.quadrature(
      hessian,
      state.params,
      probes_key,
      order=c.order,
      probes=c.probes,
    )
    density = spectra.density(rules, jnp.asarray(PLACES), WIDTH, AXIS)
    values = {
      "density": density.value,
      "density_se": density.standard_error,
      "density_products": jnp.array(
        c.probes * min(c.order, size) + ROUNDING_PRODUCTS
      ),
    }
    for power, name in enumerate(SIZES, start=1):
      mean = spectra.moment(rules, power)
      values[name] = size * mean.value
      values[f"{name}_se"] = size * mean.standard_error
    above = [
      spectra.count_above(rules, jnp.array(t), rounding=rounding)
      for t in THRESHOLDS
    ]
    below = [
      spectra.count_below(rules, jnp.array(-t), rounding=rounding)
      for t in THRESHOLDS
    ]
    for name, counts in zip(COUNTS, (above, below)):
      stacked = jax.tree.map(lambda *x: jnp.stack(x), *counts)
      values[name] = stacked.value
      values[f"{name}_low"] = stacked.low
      values[f"{name}_high"] = stacked.high
    return values, carry

  return Probe(
    name="density",
    interval=c.interval,
    variables=VARIABLES,
    coordinates={"eigenvalue": EIGENVALUES, "threshold": THRESHOLDS},
    prepare=curvature.prepare,
    measure=measure,
  )
