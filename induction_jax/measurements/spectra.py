"""Spectra: the loss Hessian's two ends, plain, preconditioned, and split."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from induction_jax import spectra
from induction_jax.config import Config
from induction_jax.measurements.curvature import Curvature
from induction_jax.measurements.evaluation_batches import HeldOut
from induction_jax.measurements.measurement import Probe, Values, no_arrays
from induction_jax.measurements.solve import Wanted, find_spectra
from induction_jax.measurements.spectra_variables import ENDS, VARIABLES
from induction_jax.training import optim
from induction_jax.training.state import TrainState, stream
from induction_jax.types import Array, Key, Params, PyTree


class Prepared(NamedTuple):
  """What a measurement starts from, built in a program of its own."""

  hessian: spectra.Operator
  gauss_newton: spectra.Operator | None
  grad: Params


class Carry(NamedTuple):
  """What one measurement leaves for the next."""

  top: PyTree  # eigenvectors, leaves [k, ...]; zeros before the first
  bottom: PyTree
  overlap: Array  # of the last two measurements, the lower of both ends'
  since_cold: Array  # measurements since Lanczos began at random, int32


def make_spectra_probe(config: Config, curvature: Curvature) -> Probe:
  """Lanczos on the training loss of one fixed held-out batch."""
  c = config.spectra
  k = c.track_top_k_eigenvalues

  def prepare(state: TrainState, held_out: HeldOut) -> Prepared:
    params, data = state.params, curvature.split(held_out)
    gauss_newton = None
    if c.gauss_newton_top_k:
      streamed = curvature.gauss_newton_at(params, held_out)
      gauss_newton = curvature.ready(streamed, params)
    return Prepared(
      hessian=curvature.prepare(state, held_out),
      gauss_newton=gauss_newton,
      grad=spectra.gradient(curvature.loss, params, data),
    )

  def measure(
    state: TrainState, held_out: HeldOut, prepared: Prepared, carry: Carry
  ) -> tuple[dict[str, Array], Carry]:
    warm = spectra.may_start_warm(carry.overlap, carry.since_cold)
    warm = warm & c.warm_start
    values = {"warm_start": warm.astype(jnp.float32)}
    found = _whole(config, curvature, state, held_out, prepared, carry, warm)
    if prepared.gauss_newton is not None:
      pair = prepared.hessian, prepared.gauss_newton
      found |= _split(config, curvature, state, held_out, *pair)
    for prefix, spectrum in found.items():
      values |= _pair_values(prefix, spectrum)
    if c.preconditioned_top_k:
      # Before the first update Adam has no preconditioner.
      values["preconditioned_edge"] = _preconditioner(config, state).edge
      values |= {
        name: jnp.where(state.step > 0, value, jnp.nan)
        for name, value in values.items()
        if name.startswith("preconditioned_") and "products" not in name
      }
    plain = found[""]
    values |= _geometry(plain, prepared.grad, carry, curvature.partition)
    overlap = jnp.fmin(values["top_overlap"], values["bottom_overlap"])
    return values, Carry(
      top=plain.top.vectors,
      bottom=plain.bottom.vectors,
      overlap=overlap,
      since_cold=jnp.where(warm, carry.since_cold + 1, 0),
    )

  def constants(state: TrainState, _: HeldOut) -> dict[str, Array]:
    sizes = jnp.asarray(curvature.partition.sizes)
    n_params = jnp.sum(sizes)
    values = {}
    for end in ENDS:
      values[f"{end}_alignment_null"] = 1 / n_params
      values[f"{end}_block_mass_null"] = sizes / n_params
    return values

  def complain(values: Values) -> str | None:
    if not np.any(np.isnan(values["top_eigenvalues"])):
      return None
    return (
      "non-finite Hessian product: the loss is finite, its second derivative "
      "is not; try a lower optim.learning_rate in a new --workdir"
    )

  def init_carry(params: Params) -> Carry:
    none = jax.tree.map(lambda x: jnp.zeros((k, *x.shape), x.dtype), params)
    return Carry(
      top=none,
      # Two copies, not one twice: a carry may be donated.
      bottom=jax.tree.map(jnp.copy, none),
      # Typed as what a measurement leaves, or the next compiles anew.
      overlap=jnp.array(jnp.nan, jnp.float32),
      since_cold=jnp.array(0, jnp.int32),
    )

  return Probe(
    name="spectra",
    interval=c.eigen_interval,
    variables=VARIABLES,
    coordinates={"block": curvature.partition.names},
    constants=constants,
    init_carry=init_carry,
    prepare=prepare,
    measure=measure,
    complain=complain,
    keep=_eigenvectors if c.keep_eigenvectors else no_arrays,
  )


def _whole(
  config: Config,
  curvature: Curvature,
  state: TrainState,
  held_out: HeldOut,
  prepared: Prepared,
  carry: Carry,
  warm: Array,
) -> dict[str, spectra.Spectrum]:
  """The Hessian's spectrum, and that of the preconditioned one if wanted."""
  c = config.spectra
  k, n = c.track_top_k_eigenvalues, c.preconditioned_top_k
  ones = jax.tree.map(jnp.ones_like, state.params)
  start = spectra.make_start(carry.top, carry.bottom, _key(state, 1), warm)
  wanted = [Wanted("", ones, k, k, _key(state, 4), start)]
  if n:
    scale = _preconditioner(config, state).inverse_sqrt
    # The top is what the stability edge is of; the bottom as well would take
    # two to four times the products.
    wanted.append(Wanted("preconditioned_", scale, n, 0, _key(state, 2)))
  return find_spectra(
    curvature.solve,
    c.tolerance,
    prepared.hessian,
    lambda params: curvature.hessian_at(params, held_out),
    state.params,
    _key(state, 3),
    wanted,
  )


def _split(
  config: Config,
  curvature: Curvature,
  state: TrainState,
  held_out: HeldOut,
  hessian: spectra.Operator,
  gauss_newton: spectra.Operator,
) -> dict[str, spectra.Spectrum]:
  """The spectra of the Gauss-Newton part G and of what is left, H - G."""
  c, n = config.spectra, config.spectra.gauss_newton_top_k
  ones = jax.tree.map(jnp.ones_like, state.params)

  def gauss_newton_at(params: Params) -> spectra.Operator:
    return curvature.gauss_newton_at(params, held_out)

  def rest_at(params: Params) -> spectra.Operator:
    whole = curvature.hessian_at(params, held_out)
    return spectra.subtract(whole, gauss_newton_at(params))

  # G has no negative eigenvalue, and as many zeros as keep Lanczos busy.
  top = Wanted("gauss_newton_", ones, n, 0, _key(state, 5))
  both = Wanted("functional_", ones, n, n, _key(state, 6))
  rest = spectra.subtract(hessian, gauss_newton)
  found: dict[str, spectra.Spectrum] = {}
  for operator, operator_at, wanted in (
    (gauss_newton, gauss_newton_at, top),
    (rest, rest_at, both),
  ):
    found |= find_spectra(
      curvature.solve,
      c.tolerance,
      operator,
      operator_at,
      state.params,
      _key(state, 3),
      [wanted],
    )
  return found


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
  carry: Carry,
  partition: spectra.Partition,
) -> dict[str, Array]:
  """Where the eigenvectors lie: to the gradient, in time, among the blocks."""
  values = {"gradient_norm": optax.tree.norm(grad)}
  for end in ENDS:
    vectors = getattr(spectrum, end).vectors
    aligned = spectra.alignment(grad, vectors)
    share = spectra.overlap(getattr(carry, end), vectors)
    values[f"{end}_alignment"] = aligned
    values[f"{end}_alignment_total"] = jnp.sum(aligned)
    # At the first measurement the carry is all zeros.
    values[f"{end}_overlap"] = jnp.where(share > 0, share, jnp.nan)
    values[f"{end}_block_mass"] = spectra.mass(vectors, partition)
    # By step, for k may be another when a checkpoint is measured again.
    null = jnp.float32(aligned.size / partition.ids.size)
    values[f"{end}_alignment_total_null"] = null
    values[f"{end}_overlap_null"] = null
  return values


def _eigenvectors(carry: Carry) -> dict[str, Array]:
  """Both ends' eigenvectors by `end.parameter`, each [k, ...]."""
  return {
    f"{end}.{name}": vectors
    for end in ENDS
    for name, vectors in getattr(carry, end).items()
  }


def _preconditioner(
  config: Config, state: TrainState
) -> spectra.Preconditioner:
  c = config.optim
  schedule = optim.make_schedule(c, config.train.num_steps)
  learning_rate = jnp.asarray(schedule(state.step))
  if c.name == "sgd":
    return spectra.sgd_preconditioner(state.params, learning_rate, c.momentum)
  found = spectra.adam_preconditioner(
    state.opt_state, learning_rate, c.b1, c.b2, c.eps
  )
  # Ones where there is no preconditioner yet, to keep Lanczos finite.
  return found._replace(
    inverse_sqrt=jax.tree.map(
      lambda x: jnp.where(state.step > 0, x, 1), found.inverse_sqrt
    )
  )
