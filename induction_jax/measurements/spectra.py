"""Spectra: both ends of the loss Hessian's spectrum, and its eigenvectors.

Beside the Hessian: its preconditioned form, and its Gauss-Newton and functional
parts.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from induction_jax import spectra
from induction_jax.config import Config
from induction_jax.measurements.curvature import Curvature, Linearisation
from induction_jax.measurements.eigenpairs import SpectrumRequest
from induction_jax.measurements.measurement import (
  Inputs,
  Measurement,
  Values,
  to_numpy,
)
from induction_jax.model import Model
from induction_jax.spectra.krylov import normalise
from induction_jax.training import optimizer
from induction_jax.training.state import TrainState, stream
from induction_jax.types import Array, Key, Params, PyTree, Variable

ENDS = ("top", "bottom")


def _pair_variables(
  prefix: str, what: str, dim: str, units: str, ends: tuple[str, ...] = ENDS
) -> tuple[Variable, ...]:
  dims = ("step", dim)
  pairs = (
    (
      Variable(
        f"{prefix}{end}_eigenvalues", dims, f"{end} eigenvalues, {what}", units
      ),
      Variable(
        f"{prefix}{end}_residuals",
        dims,
        f"residual bound, {end} eigenpairs, {what}",
        units,
      ),
      Variable(
        f"{prefix}{end}_converged",
        dims,
        f"1 if converged, {end} eigenpairs, {what}",
      ),
    )
    for end in ends
  )
  products = f"Hessian-vector products, {what}"
  return (
    *(variable for each in pairs for variable in each),
    Variable(f"{prefix}products", ("step",), products, "products"),
  )


def _end_variables(end: str) -> tuple[Variable, ...]:
  """How the Hessian's eigenvectors at one end lie."""
  once, each = ("step",), ("step", "eig")
  rows: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("alignment", each, f"gradient alignment with {end} eigenvectors"),
    ("alignment_null", (), "alignment of a random direction: 1 / P"),
    ("alignment_total", once, f"gradient share in the {end} eigenspace"),
    ("alignment_total_null", once, "share of a random direction: k / P"),
    ("overlap", once, f"{end} eigenspace, overlap with the last measured one"),
    ("overlap_null", once, "overlap of random subspaces: k / P"),
    (
      "block_mass",
      (*each, "block"),
      f"share of {end} eigenvectors in each block",
    ),
    (
      "block_mass_null",
      ("block",),
      "share of a random direction in each block: its parameters / P",
    ),
  )
  return tuple(
    Variable(f"{end}_{name}", dims, long) for name, dims, long in rows
  )


VARIABLES = (
  *_pair_variables("", "Hessian", "eig", "nats"),
  Variable("spectral_norm", ("step",), "Hessian spectral norm", "nats"),
  Variable("gradient_norm", ("step",), "gradient norm, Hessian batch", "nats"),
  # Only earlier versions recorded this one. Their runs can still be read.
  Variable("warm_start", ("step",), "1 if Lanczos began at old eigenvectors"),
  *(variable for end in ENDS for variable in _end_variables(end)),
  # Only earlier versions recorded the bottom of this one.
  *_pair_variables(
    "preconditioned_", "preconditioned Hessian", "preconditioned_eig", "1"
  ),
  Variable("preconditioned_edge", ("step",), "stability edge"),
  *_pair_variables(
    "gauss_newton_", "Gauss-Newton part", "gauss_newton_eig", "nats", ("top",)
  ),
  *_pair_variables(
    "functional_", "functional part H - G", "gauss_newton_eig", "nats"
  ),
)


def make_spectra(config: Config, _: Model, curvature: Curvature) -> Measurement:
  """Makes the Lanczos measurement of the training loss's Hessian.

  Besides its variables it returns the eigenvectors of both ends, `top` and
  `bottom`, as pytrees with leaves [k, ...]. They are its carry, with which the
  next measurement compares its eigenspaces, and other measurements use them.
  """
  c = config.spectra
  k = c.track_top_k_eigenvalues

  def measure(inputs: Inputs) -> dict[str, PyTree]:
    state, linearised = inputs.state, inputs.used["linearisation"]
    found = _find_spectra(config, curvature, inputs)
    if linearised.gauss_newton is not None:
      found |= _split_spectra(config, curvature, inputs)
    values: dict[str, Array] = {}
    for prefix, spectrum in found.items():
      values |= _pair_values(prefix, spectrum)
    if c.preconditioned_top_k:
      values["preconditioned_edge"] = _preconditioner(config, state).edge
      # Adam has no preconditioner before the first update.
      values |= {
        name: jnp.where(state.step > 0, value, jnp.nan)
        for name, value in values.items()
        if name.startswith("preconditioned_") and "products" not in name
      }
    plain = found[""]
    values |= _geometry(
      plain, linearised.gradient, inputs.carry, curvature.partition
    )
    return values | {end: getattr(plain, end).vectors for end in ENDS}

  def nulls(_: Inputs) -> dict[str, Array]:
    sizes = jnp.asarray(curvature.partition.sizes)
    n_params = jnp.sum(sizes)
    values = {}
    for end in ENDS:
      values[f"{end}_alignment_null"] = 1 / n_params
      values[f"{end}_block_mass_null"] = sizes / n_params
    return values

  def init_carry(params: Params) -> dict[str, PyTree]:
    return {
      end: jax.tree.map(lambda x: jnp.zeros((k, *x.shape), x.dtype), params)
      for end in ENDS
    }

  return Measurement(
    name="spectra",
    interval=c.eigen_interval,
    variables=VARIABLES,
    measure=measure,
    nulls=nulls,
    finish=_check_finite,
    init_carry=init_carry,
    uses=("linearisation",),
    coordinates={"block": curvature.partition.names},
  )


def make_eigenvectors(config: Config, _: Model, __: Curvature) -> Measurement:
  """Makes the measurement that writes the eigenvectors of `spectra` to files.

  The arrays `top.<parameter>` and `bottom.<parameter>` are [k, ...].
  """
  c = config.spectra

  def measure(inputs: Inputs) -> dict[str, Array]:
    found = inputs.used["spectra"]
    return {
      f"{end}.{name}": vectors
      for end in ENDS
      for name, vectors in found[end].items()
    }

  return Measurement(
    name="eigenvectors",
    interval=c.eigen_interval if c.keep_eigenvectors else 0,
    variables=(),
    measure=measure,
    uses=("spectra",),
  )


def _check_finite(arrays: dict[str, Array]) -> Values:
  """Converts to numpy.

  Raises:
    FloatingPointError: if a Hessian product was not finite.
  """
  values = to_numpy(arrays)
  # Null values contain no eigenvalues.
  if np.any(np.isnan(values.get("top_eigenvalues", 0.0))):
    raise FloatingPointError(
      "non-finite Hessian product: the loss is finite, its second derivative "
      "is not; try a lower optim.learning_rate in a new --workdir"
    )
  return values


def _find_spectra(
  config: Config, curvature: Curvature, inputs: Inputs
) -> dict[str, spectra.Spectrum]:
  """The spectra of the Hessian and, if the config says so, preconditioned."""
  c, state = config.spectra, inputs.state
  linearised: Linearisation = inputs.used["linearisation"]
  k, n = c.track_top_k_eigenvalues, c.preconditioned_top_k
  ones = jax.tree.map(jnp.ones_like, state.params)
  start = _random_direction(state.params, _key(state, 1))
  requests = [SpectrumRequest("", ones, k, k, _key(state, 4), start)]
  if n:
    scale = _preconditioner(config, state).inverse_sqrt
    # Top only: that is what the stability edge bounds, and the bottom would
    # cost two to four times the products.
    requests.append(
      SpectrumRequest("preconditioned_", scale, n, 0, _key(state, 2))
    )
  return curvature.find_spectra(
    linearised.hessian,
    lambda params: curvature.hessian_at(params, inputs.batches),
    state.params,
    _key(state, 3),
    requests,
  )


def _split_spectra(
  config: Config, curvature: Curvature, inputs: Inputs
) -> dict[str, spectra.Spectrum]:
  """The spectra of the Gauss-Newton part G and of the remainder H - G."""
  state, n = inputs.state, config.spectra.gauss_newton_top_k
  linearised: Linearisation = inputs.used["linearisation"]
  ones = jax.tree.map(jnp.ones_like, state.params)

  def gauss_newton_at(params: Params) -> spectra.Operator:
    return curvature.gauss_newton_at(params, inputs.batches)

  def remainder_at(params: Params) -> spectra.Operator:
    hessian = curvature.hessian_at(params, inputs.batches)
    return spectra.subtract(hessian, gauss_newton_at(params))

  # Top only: the smallest eigenvalues of G are zero and so many that Lanczos
  # would not converge.
  top = SpectrumRequest("gauss_newton_", ones, n, 0, _key(state, 5))
  both_ends = SpectrumRequest("functional_", ones, n, n, _key(state, 6))
  assert linearised.gauss_newton is not None
  remainder = spectra.subtract(linearised.hessian, linearised.gauss_newton)
  found: dict[str, spectra.Spectrum] = {}
  for operator, operator_at, request in (
    (linearised.gauss_newton, gauss_newton_at, top),
    (remainder, remainder_at, both_ends),
  ):
    found |= curvature.find_spectra(
      operator, operator_at, state.params, _key(state, 3), [request]
    )
  return found


def _random_direction(params: Params, key: Key) -> Params:
  """A uniformly distributed unit vector, as a pytree like `params`."""
  flat, unravel = ravel_pytree(params)
  return unravel(normalise(jax.random.normal(key, flat.shape, flat.dtype)))


def _key(state: TrainState, number: int) -> Key:
  return jax.random.fold_in(stream(state.key, "spectra"), number)


def _pair_values(prefix: str, spectrum: spectra.Spectrum) -> dict[str, Array]:
  values = {f"{prefix}products": spectrum.products}
  for end in ENDS:
    pairs = getattr(spectrum, end)
    if pairs.values.size:
      values[f"{prefix}{end}_eigenvalues"] = pairs.values
      values[f"{prefix}{end}_residuals"] = pairs.residuals
      values[f"{prefix}{end}_converged"] = pairs.converged.astype(jnp.float32)
  return values | ({} if prefix else {"spectral_norm": spectrum.norm})


def _geometry(
  spectrum: spectra.Spectrum,
  grad: Params,
  previous: Mapping[str, PyTree],
  partition: spectra.Partition,
) -> dict[str, Array]:
  """Alignment, overlap and block mass of the eigenvectors."""
  values = {"gradient_norm": optax.tree.norm(grad)}
  for end in ENDS:
    vectors = getattr(spectrum, end).vectors
    aligned = spectra.alignment(grad, vectors)
    share = spectra.overlap(previous[end], vectors)
    values[f"{end}_alignment"] = aligned
    values[f"{end}_alignment_total"] = jnp.sum(aligned)
    # The initial carry, before the first measurement, is all zeros.
    values[f"{end}_overlap"] = jnp.where(share > 0, share, jnp.nan)
    values[f"{end}_block_mass"] = spectra.mass(vectors, partition)
    # Recorded at every step, because `measure` may change k.
    null = jnp.float32(aligned.size / partition.ids.size)
    values[f"{end}_alignment_total_null"] = null
    values[f"{end}_overlap_null"] = null
  return values


def _preconditioner(
  config: Config, state: TrainState
) -> spectra.Preconditioner:
  c = config.optim
  schedule = optimizer.make_schedule(c, config.train.num_steps)
  learning_rate = jnp.asarray(schedule(state.step))
  if c.name == "sgd":
    return spectra.sgd_preconditioner(state.params, learning_rate, c.momentum)
  found = spectra.adam_preconditioner(
    state.opt_state, learning_rate, c.b1, c.b2, c.eps
  )
  # Before the first update there is no preconditioner. Ones keep Lanczos
  # finite, and `measure` replaces the results by nan.
  return found._replace(
    inverse_sqrt=jax.tree.map(
      lambda x: jnp.where(state.step > 0, x, 1), found.inverse_sqrt
    )
  )
