"""Spectra: the loss Hessian's two ends, plain and preconditioned."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from induction_jax import losses, optim, spectra, tasks
from induction_jax.config import Config
from induction_jax.model import Model
from induction_jax.probes.probe import Probe, Values
from induction_jax.state import TrainState, stream
from induction_jax.step import make_loss
from induction_jax.types import Array, Params, PyTree, Variable

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
  nudged: spectra.Operator  # the same at nudged parameters, for the rounding
  grad: Params


def make_spectra_probe(config: Config, model: Model) -> Probe:
  """Lanczos on the training loss of one fixed held-out batch.

  The Hessian is a linear map built once per measurement where the batch is a
  single micro-batch, and streamed over micro-batches otherwise.
  """
  c = config.spectra
  k = c.track_top_k_eigenvalues
  sample = tasks.make_sampler(config.task, c.batch_size)
  weights = losses.make_weights(config.train.loss_tokens)
  loss = make_loss(model, weights)
  make_hessian = (
    spectra.linearized_hessian
    if c.micro_batch_size == c.batch_size
    else spectra.hessian
  )

  def data(state: TrainState) -> spectra.MicroBatches:
    batch = sample(jax.random.fold_in(stream(state.key, "spectra"), 0))
    counts = jnp.sum(weights(batch), axis=1)
    return spectra.split_batch(batch, counts, c.micro_batch_size)

  def prepare(state: TrainState) -> Prepared:
    split = data(state)
    key = jax.random.fold_in(stream(state.key, "spectra"), 3)
    nudged = spectra.nudge(state.params, key)
    return Prepared(
      hessian=make_hessian(loss, state.params, split),
      nudged=spectra.hessian(loss, nudged, split),
      grad=spectra.gradient(loss, state.params, split),
    )

  def find_spectrum(
    operator: spectra.Operator,
    nudged: spectra.Operator,
    state: TrainState,
    k: int,
    number: int,
  ) -> spectra.Spectrum:
    spectrum = spectra.lanczos(
      operator,
      state.params,
      jax.random.fold_in(stream(state.key, "spectra"), number),
      k_top=k,
      k_bottom=k,
      max_order=c.max_order,
      tolerance=c.tolerance,
    )
    rounding = spectra.rounding_error(spectrum, operator, nudged)
    return spectra.add_rounding(spectrum, rounding, c.tolerance)

  def measure(
    state: TrainState,
    prepared: Prepared,
    carry: dict[str, PyTree],
  ) -> tuple[dict[str, Array], dict[str, PyTree]]:
    hessian, nudged, grad = prepared
    spectrum = find_spectrum(hessian, nudged, state, k, 1)
    values = _pair_values("", spectrum) | {
      "spectral_norm": spectrum.norm,
      "products": spectrum.products,
      "gradient_norm": optax.tree.norm(grad),
    }
    new_carry = {}
    for end in ENDS:
      vectors = getattr(spectrum, end).vectors
      aligned = spectra.alignment(grad, vectors)
      values[f"{end}_alignment"] = aligned
      values[f"{end}_alignment_total"] = jnp.sum(aligned)
      values[f"{end}_overlap"] = _overlap(carry[end], vectors)
      new_carry[end] = vectors
    if c.preconditioned_top_k:
      preconditioner = _preconditioner(config, state)
      spectrum = find_spectrum(
        spectra.rescale(hessian, preconditioner.inverse_sqrt),
        spectra.rescale(nudged, preconditioner.inverse_sqrt),
        state,
        c.preconditioned_top_k,
        2,
      )
      # Before the first update Adam has no preconditioner.
      values |= jax.tree.map(
        lambda x: jnp.where(state.step > 0, x, jnp.nan),
        _pair_values("preconditioned_", spectrum)
        | {"preconditioned_edge": preconditioner.edge},
      )
      values["preconditioned_products"] = spectrum.products
    return values, new_carry

  def constants(state: TrainState) -> Values:
    n_params = sum(x.size for x in jax.tree.leaves(state.params))
    values: Values = {}
    for end in ENDS:
      values[f"{end}_alignment_null"] = np.array(1 / n_params)
      values[f"{end}_alignment_total_null"] = np.array(k / n_params)
      values[f"{end}_overlap_null"] = np.array(k / n_params)
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
    finish=lambda arrays: jax.tree.map(np.asarray, arrays),
  )


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
