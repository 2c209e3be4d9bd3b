"""Density: spectral density, trace, norm and counts of the Hessian."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from induction_jax import spectra
from induction_jax.config import Config
from induction_jax.measurements.curvature import ROUNDING_PRODUCTS, Curvature
from induction_jax.measurements.eigenpairs import SpectrumRequest
from induction_jax.measurements.measurement import Inputs, Measurement
from induction_jax.model import Model
from induction_jax.training.state import stream
from induction_jax.types import Array, Key, Params, Variable

# All steps and runs share one grid, so that densities can be compared: a
# symmetric logarithmic axis, linear below KNEE nats and ending at 10^5 KNEE.
# Quadrature nodes are about a tenth of a nat apart where eigenvalues are dense,
# so a smaller knee would show single nodes as peaks.
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
  "frobenius": ("Hessian, Frobenius norm", "nats"),
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
    "standard error of the density, over random vectors",
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
      ("_low", ", lower bound: sampling, truncation, rounding"),
      ("_high", ", upper bound: sampling, truncation, rounding"),
    )
  ),
  Variable(
    "density_products",
    ("step",),
    "Hessian-vector products, spectral density",
    "products",
  ),
)


class Estimates(NamedTuple):
  """Estimates of the complete spectrum, and their cost."""

  rules: spectra.Quadrature
  sizes: spectra.Sizes
  products: Array  # Hessian-vector products used


def make_density(config: Config, _: Model, curvature: Curvature) -> Measurement:
  """Makes the measurement of the density of the Hessian's spectrum."""

  def measure(inputs: Inputs) -> dict[str, Array]:
    state, batches = inputs.state, inputs.batches
    hessian = inputs.used["linearisation"].hessian
    key = jax.random.fold_in(stream(state.key, "spectra"), 7)
    rounding_key, key = jax.random.split(key)
    rounding = curvature.rounding(state, batches, hessian, rounding_key)
    found = (
      _exact_estimates(hessian, state.params)
      if config.spectra.exact
      else _random_estimates(config, curvature, hessian, state.params, key)
    )
    density = spectra.density(found.rules, jnp.asarray(PLACES), WIDTH, AXIS)
    values = {
      "density": density.value,
      "density_se": density.standard_error,
      "density_products": found.products + ROUNDING_PRODUCTS,
    }
    for name, estimate in found.sizes._asdict().items():
      values[name], values[f"{name}_se"] = estimate
    return values | _counts(found.rules, rounding)

  return Measurement(
    name="density",
    interval=config.density.interval,
    variables=VARIABLES,
    coordinates={"eigenvalue": EIGENVALUES, "threshold": THRESHOLDS},
    measure=measure,
    uses=("linearisation",),
  )


def _random_estimates(
  config: Config,
  curvature: Curvature,
  hessian: spectra.Operator,
  params: Params,
  key: Key,
) -> Estimates:
  """Quadrature for the density; trace and norm with the outliers deflated.

  The quadrature also gives trace and norm. With few random vectors, outliers
  make these noisy, and their standard error does not show it; hence the
  deflation.
  """
  c, size = config.density, curvature.partition.ids.size
  k = min(config.spectra.track_top_k_eigenvalues, size // 2)
  rules_key, outliers_key, sizes_key = jax.random.split(key, 3)
  rules = spectra.quadrature(
    hessian,
    params,
    rules_key,
    order=c.order,
    probes=c.probes,
    sharding=curvature.sharding,
  )
  ones = jax.tree.map(jnp.ones_like, params)
  request = SpectrumRequest("", ones, k, k, outliers_key)
  outliers = curvature.solve(hessian, params, request)
  sizes = spectra.estimate_sizes(
    hessian, params, sizes_key, probes=c.trace_probes, deflate=outliers
  )
  products = rules.nodes.size + outliers.products + c.trace_probes
  return Estimates(rules, sizes, products)


def _exact_estimates(hessian: spectra.Operator, params: Params) -> Estimates:
  """Estimates from every eigenvalue of the dense matrix."""
  found, values = spectra.exact_spectrum(hessian, params, k_top=1, k_bottom=0)
  rules = spectra.exact_quadrature(values)
  return Estimates(rules, spectra.exact_sizes(values), found.products)


def _counts(rules: spectra.Quadrature, rounding: Array) -> dict[str, Array]:
  """Counts of eigenvalues beyond each of THRESHOLDS, on either side."""
  values = {}
  for name, count, sign in (
    ("count_above", spectra.count_above, 1),
    ("count_below", spectra.count_below, -1),
  ):
    counts = [
      count(rules, jnp.array(sign * t), rounding=rounding) for t in THRESHOLDS
    ]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *counts)
    values[name] = stacked.value
    values[f"{name}_low"] = stacked.low
    values[f"{name}_high"] = stacked.high
  return values
