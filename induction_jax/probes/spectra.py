"""Spectra: the loss Hessian's two ends, plain and preconditioned."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from induction_jax import losses, optim, spectra
from induction_jax.config import Config
from induction_jax.model import Model
from induction_jax.probes.held_out import HeldOut
from induction_jax.probes.probe import Probe, as_they_are
from induction_jax.state import TrainState, stream
from induction_jax.step import make_loss
from induction_jax.types import Array, Batch, Key, Params, PyTree, Variable

ENDS = ("top", "bottom")


def _pair_variables(
  prefix: str, what: str, dim: str, units: str
) -> tuple[Variable, ...]:
  dims = ("step", dim)
  return tuple(
    variable
    for end in ENDS
    for variable in (
      Variable(
        f"{prefix}{end}_eigenvalues", dims, f"{end} eigenvalues, {what}", units
      ),
      Variable(
        f"{prefix}{end}_residuals",
        dims,
        f"bound on residual norm, {end} eigenpairs, {what}",
        units,
      ),
      Variable(
        f"{prefix}{end}_converged",
        dims,
        f"1 if converged, {end} eigenpairs, {what}",
      ),
    )
  )


VARIABLES = (
  *_pair_variables("", "Hessian", "eig", "nats"),
  Variable("spectral_norm", ("step",), "Hessian spectral norm", "nats"),
  Variable("products", ("step",), "Hessian products used", "products"),
  *_pair_variables(
    "preconditioned_", "preconditioned Hessian", "preconditioned_eig", "1"
  ),
  Variable("preconditioned_edge", ("step",), "stability edge"),
  Variable(
    "preconditioned_products",
    ("step",),
    "preconditioned Hessian products used",
    "products",
  ),
  Variable("gradient_norm", ("step",), "gradient norm, Hessian batch", "nats"),
  *(
    variable
    for end in ENDS
    for variable in (
      Variable(
        f"{end}_alignment",
        ("step", "eig"),
        f"gradient alignment with {end} eigenvectors",
      ),
      Variable(
        f"{end}_alignment_null", (), "alignment of a random direction: 1 / P"
      ),
      Variable(
        f"{end}_alignment_total",
        ("step",),
        f"gradient share in the {end} eigenspace",
      ),
      Variable(
        f"{end}_alignment_total_null",
        (),
        "share of a random direction: k / P",
      ),
      Variable(
        f"{end}_overlap",
        ("step",),
        f"{end} eigenspace, overlap with the measurement before",
      ),
      Variable(f"{end}_overlap_null", (), "overlap of random subspaces: k / P"),
    )
  ),
)


class Prepared(NamedTuple):
  """What a measurement starts from, built in a program of its own."""

  hessian: spectra.Operator
  grad: Params


class Wanted(NamedTuple):
  """One spectrum of a measurement: that of D H D for a diagonal D."""

  prefix: str  # of its variables
  scale: PyTree  # D
  k: int  # pairs at each end
  key: Key


def make_spectra_probe(config: Config, model: Model) -> Probe:
  """Lanczos on the training loss of one fixed held-out batch.

  The Hessian is a linear map built once per measurement where the batch is a
  single micro-batch, and streamed over micro-batches otherwise.
  """
  c = config.spectra
  k = c.track_top_k_eigenvalues
  weights = losses.make_weights(config.train.loss_tokens)
  loss = make_loss(model, weights)
  make_hessian = (
    spectra.linearized_hessian
    if c.micro_batch_size == c.batch_size
    else spectra.hessian
  )

  def split(batch: Batch) -> spectra.MicroBatches:
    counts = jnp.sum(weights(batch), axis=1)
    return spectra.split_batch(batch, counts, c.micro_batch_size)

  def prepare(state: TrainState, held_out: HeldOut) -> Prepared:
    data = split(held_out.curvature)
    return Prepared(
      hessian=make_hessian(loss, state.params, data),
      grad=spectra.gradient(loss, state.params, data),
    )

  def find_spectra(
    hessian: spectra.Operator,
    state: TrainState,
    data: spectra.MicroBatches,
    wanted: list[Wanted],
  ) -> list[spectra.Spectrum]:
    """The spectra, their residual bounds widened by measured rounding."""
    found = [
      spectra.lanczos(
        spectra.rescale(hessian, each.scale),
        state.params,
        each.key,
        k_top=each.k,
        k_bottom=each.k,
        max_order=c.max_order,
        tolerance=c.tolerance,
      )
      for each in wanted
    ]

    def rounding(scale_and_vectors: tuple[PyTree, PyTree]) -> Array:
      scale, vectors = scale_and_vectors

      def operator_at(params: Params) -> spectra.Operator:
        return spectra.rescale(spectra.hessian(loss, params, data), scale)

      return spectra.rounding_error(
        vectors, operator_at, state.params, _key(state, 3)
      )

    # Mapped, not repeated: the product is compiled once for all of them.
    each = [
      (want.scale, spectra.extremes(spectrum))
      for want, spectrum in zip(wanted, found)
    ]
    added = jax.lax.map(rounding, jax.tree.map(lambda *x: jnp.stack(x), *each))
    return [
      spectra.add_rounding(spectrum, added[i], c.tolerance)
      for i, spectrum in enumerate(found)
    ]

  def measure(
    state: TrainState,
    held_out: HeldOut,
    prepared: Prepared,
    carry: dict[str, PyTree],
  ) -> tuple[dict[str, Array], dict[str, PyTree]]:
    hessian, grad = prepared
    ones = jax.tree.map(jnp.ones_like, state.params)
    wanted = [Wanted("", ones, k, _key(state, 1))]
    if c.preconditioned_top_k:
      preconditioner = _preconditioner(config, state)
      wanted.append(
        Wanted(
          "preconditioned_",
          preconditioner.inverse_sqrt,
          c.preconditioned_top_k,
          _key(state, 2),
        )
      )
    data = split(held_out.curvature)
    plain, *others = find_spectra(hessian, state, data, wanted)
    values = _pair_values("", plain) | {
      "spectral_norm": plain.norm,
      "products": plain.products,
      "gradient_norm": optax.tree.norm(grad),
    }
    for end in ENDS:
      vectors = getattr(plain, end).vectors
      aligned = spectra.alignment(grad, vectors)
      values[f"{end}_alignment"] = aligned
      values[f"{end}_alignment_total"] = jnp.sum(aligned)
      values[f"{end}_overlap"] = _overlap(carry[end], vectors)
    for preconditioned in others:
      # Before the first update Adam has no preconditioner.
      values |= jax.tree.map(
        lambda x: jnp.where(state.step > 0, x, jnp.nan),
        _pair_values("preconditioned_", preconditioned)
        | {"preconditioned_edge": preconditioner.edge},
      )
      values["preconditioned_products"] = preconditioned.products
    return values, {end: getattr(plain, end).vectors for end in ENDS}

  def constants(state: TrainState, _: HeldOut) -> dict[str, Array]:
    n_params = sum(x.size for x in jax.tree.leaves(state.params))
    values = {}
    for end in ENDS:
      values[f"{end}_alignment_null"] = jnp.float32(1 / n_params)
      values[f"{end}_alignment_total_null"] = jnp.float32(k / n_params)
      values[f"{end}_overlap_null"] = jnp.float32(k / n_params)
    return values

  def init_carry(params: Params) -> dict[str, PyTree]:
    none = jax.tree.map(lambda x: jnp.zeros((k, *x.shape), x.dtype), params)
    # Two copies, not one twice: a carry may be donated.
    return {"top": none, "bottom": jax.tree.map(jnp.copy, none)}

  return Probe(
    name="spectra",
    interval=c.eigen_interval,
    variables=VARIABLES,
    constants=constants,
    init_carry=init_carry,
    prepare=prepare,
    measure=measure,
    finish=as_they_are,
    finish_constants=as_they_are,
  )


def _key(state: TrainState, number: int) -> Key:
  return jax.random.fold_in(stream(state.key, "spectra"), number)


def _pair_values(prefix: str, spectrum: spectra.Spectrum) -> dict[str, Array]:
  values = {}
  for end in ENDS:
    pairs = getattr(spectrum, end)
    values[f"{prefix}{end}_eigenvalues"] = pairs.values
    values[f"{prefix}{end}_residuals"] = pairs.residuals
    values[f"{prefix}{end}_converged"] = pairs.converged.astype(jnp.float32)
  return values


def _overlap(before: PyTree, now: PyTree) -> Array:
  """At the first measurement, whose carry is all zeros, nan."""
  share = spectra.overlap(before, now)
  return jnp.where(share > 0, share, jnp.nan)


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
