"""The whole Hessian spectrum: density, trace, Frobenius norm, counts."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from induction_jax import spectra
from induction_jax.config import Config
from induction_jax.measurements.curvature import ROUNDING_PRODUCTS, Curvature
from induction_jax.measurements.evaluation_batches import HeldOut
from induction_jax.measurements.measurement import Probe
from induction_jax.measurements.solve import Wanted
from induction_jax.training.state import TrainState, stream
from induction_jax.types import Array, Key, Params, PyTree, Variable

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


class Whole(NamedTuple):
  """What is known of a whole spectrum."""

  rules: spectra.Quadrature
  sizes: spectra.Sizes
  products: Array  # that it took


def make_density_probe(config: Config, curvature: Curvature) -> Probe:
  """The whole spectrum of the Hessian of the spectra probe."""

  def measure(
    state: TrainState,
    held_out: HeldOut,
    hessian: spectra.Operator,
    carry: PyTree,
  ) -> tuple[dict[str, Array], PyTree]:
    key = jax.random.fold_in(stream(state.key, "spectra"), 7)
    rounding_key, key = jax.random.split(key)
    rounding = curvature.rounding(state, held_out, hessian, rounding_key)
    whole = (
      _exactly(hessian, state.params)
      if config.spectra.exact
      else _by_probes(config, curvature, hessian, state.params, key)
    )
    density = spectra.density(whole.rules, jnp.asarray(PLACES), WIDTH, AXIS)
    values = {
      "density": density.value,
      "density_se": density.standard_error,
      "density_products": whole.products + ROUNDING_PRODUCTS,
    }
    for name, estimate in whole.sizes._asdict().items():
      values[name], values[f"{name}_se"] = estimate
    return values | _counts(whole.rules, rounding), carry

  return Probe(
    name="density",
    interval=config.density.interval,
    variables=VARIABLES,
    coordinates={"eigenvalue": EIGENVALUES, "threshold": THRESHOLDS},
    prepare=curvature.prepare,
    measure=measure,
  )


def _by_probes(
  config: Config,
  curvature: Curvature,
  hessian: spectra.Operator,
  params: Params,
  key: Key,
) -> Whole:
  """Quadrature, and random probes beside the outliers, which Lanczos finds.

  The quadrature knows trace and norm too, but from its few probes alone, to
  which single outliers are noise, and so is their standard error.
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
    sharding=curvature.layout,
  )
  ones = jax.tree.map(jnp.ones_like, params)
  wanted = Wanted("", ones, k, k, outliers_key)
  outliers = curvature.solve(hessian, params, wanted)
  sizes = spectra.estimate_sizes(
    hessian, params, sizes_key, probes=c.trace_probes, deflate=outliers
  )
  products = rules.nodes.size + outliers.products + c.trace_probes
  return Whole(rules, sizes, products)


def _exactly(hessian: spectra.Operator, params: Params) -> Whole:
  """From every eigenvalue of the dense matrix."""
  found, values = spectra.exact_spectrum(hessian, params, k_top=1, k_bottom=0)
  rules = spectra.exact_quadrature(values)
  return Whole(rules, spectra.exact_sizes(values), found.products)


def _counts(rules: spectra.Quadrature, rounding: Array) -> dict[str, Array]:
  """Eigenvalues beyond each of THRESHOLDS, on either side."""
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
