"""Configs, and trained networks whose Hessian is known in float64."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.sparse.linalg import LinearOperator, eigsh

from induction_jax import spectra, tasks
from induction_jax.config import Config, change, load_config
from induction_jax.model import losses
from induction_jax.run.experiment import make_experiment
from induction_jax.training.state import stream
from induction_jax.training.step import Loss, make_loss
from induction_jax.types import Array, Batch, Params, PyTree

K = 10  # eigenpairs at each end
TOLERANCE = 1e-3  # relative residual at which a pair counts as found
REFERENCE_TOLERANCE = 1e-10
MAX_ORDER = 240  # of Lanczos

Product = Callable[[np.ndarray], np.ndarray]


class Size(NamedTuple):
  """A network that has begun to learn, so that both ends have outliers."""

  settings: Mapping[str, Any]  # that differ from configs/quick.py
  train_steps: int
  examples: int  # in the Hessian's batch


SIZES = {
  # 39,360 parameters, just past the transition.
  "quick": Size({}, 500, 16),
  # 1,075,456 parameters, at the start of training.
  "1m": Size(
    {
      "model.n_layers": 4,
      "model.n_heads": 8,
      "model.d_model": 256,
      "optim.learning_rate": 0.001,
      "train.batch_size": 16,
    },
    100,
    8,
  ),
}


class Problem(NamedTuple):
  """A loss, the parameters at which its Hessian is wanted, and a batch."""

  loss: Loss
  params: Params
  batch: Batch
  counts: Array  # [B], tokens that count in each example

  @property
  def size(self) -> int:
    return sum(x.size for x in jax.tree.leaves(self.params))

  def split(self, examples: int | None = None) -> spectra.MicroBatches:
    """The batch in micro-batches of `examples`, in one by default."""
    size = examples or len(self.counts)
    return spectra.split_batch(self.batch, self.counts, size)


class Reference(NamedTuple):
  """Extreme eigenvalues in float64, and the product that they came from."""

  top: np.ndarray  # [K], descending
  bottom: np.ndarray  # [K], ascending
  magnitude: np.ndarray  # [K], the largest in absolute value, descending
  product: Product  # float64


class Answer(NamedTuple):
  """Eigenpairs that a solver found, in its own order."""

  values: np.ndarray  # [k]
  vectors: np.ndarray  # [k, P]
  products: int


def read_config(name: str, settings: Mapping[str, Any] | None = None) -> Config:
  """A config of this project, with some settings changed."""
  return change(load_config(name).to_dict(), settings or {})


def make_problem(
  name: str, examples: int | None = None, trained: bool = True
) -> Problem:
  """One of SIZES, trained by the project's own step.

  Args:
    name: a key of SIZES.
    examples: in the Hessian's batch; by default those of the size.
    trained: false returns the initial weights.
  """
  size = SIZES[name]
  config = read_config("quick", size.settings)
  experiment = make_experiment(config)
  state = experiment.init()
  if trained:
    state, _ = experiment.train_chunk(state, jnp.int32(size.train_steps))
  sample = tasks.make_sampler(config.task, examples or size.examples)
  weights = losses.make_weights(config.train.loss_tokens)
  batch = jax.jit(sample)(stream(state.key, "spectra"))
  return Problem(
    loss=make_loss(experiment.model, weights),
    params=jax.device_get(state.params),
    batch=jax.device_get(batch),
    counts=jax.device_get(jnp.sum(weights(batch), axis=1)),
  )


def find_ends(
  operator: spectra.Operator,
  params: Params,
  key: jax.Array,
  *,
  k_bottom: int = K,
  tolerance: float = TOLERANCE,
  max_order: int = MAX_ORDER,
) -> spectra.Spectrum:
  """Lanczos of this project for the K largest eigenvalues and some smallest."""
  return spectra.lanczos(
    operator,
    params,
    key,
    k_top=K,
    k_bottom=k_bottom,
    max_order=max_order,
    tolerance=tolerance,
  )


def find_reference(problem: Problem) -> Reference:
  """Both ends by ARPACK in float64, to REFERENCE_TOLERANCE.

  A dense Hessian would take 12 GB at the smaller size.
  """
  product = exact_product(problem)
  operator = LinearOperator((problem.size,) * 2, product, dtype=np.float64)
  values = eigsh(
    operator,
    2 * K,
    which="BE",
    ncv=8 * K,
    tol=REFERENCE_TOLERANCE,
    v0=np.random.default_rng(0).normal(size=problem.size),
    return_eigenvectors=False,
  )
  values = np.sort(values)
  by_magnitude = values[np.argsort(-np.abs(values))]
  return Reference(
    top=values[::-1][:K],
    bottom=values[:K],
    magnitude=by_magnitude[:K],
    product=product,
  )


def exact_product(problem: Problem) -> Product:
  """The HVP on flat vectors, computed in float64 throughout."""
  with jax.enable_x64(True):
    params = jax.tree.map(lambda x: x.astype(np.float64), problem.params)
    counts = problem.counts.astype(np.float64)
    data = problem._replace(counts=jnp.asarray(counts)).split()
    unravel = ravel_pytree(params)[1]
    hessian = spectra.hessian(problem.loss, params, data)
    product = jax.jit(lambda v: ravel_pytree(hessian(unravel(v)))[0])

  def call(vector: np.ndarray) -> np.ndarray:
    with jax.enable_x64(True):
      return np.asarray(product(vector.reshape(-1).astype(np.float64)))

  return call


def relative_residual(answer: Answer, reference: Reference) -> float:
  """The largest ||H v - value v|| / |value|, v of unit length, in float64."""
  return max(
    float(np.linalg.norm(reference.product(v) - value * v) / abs(value))
    for value, v in zip(answer.values, map(_unit, answer.vectors))
  )


def relative_error(values: np.ndarray, exact: np.ndarray) -> float:
  """The largest relative error of eigenvalues, matched in sorted order."""
  values, exact = np.sort(values), np.sort(exact)
  return float(np.max(np.abs(values - exact) / np.abs(exact)))


def flatten_vectors(vectors: PyTree) -> np.ndarray:
  """Vectors with leaves [k, ...] as rows, [k, P]."""
  leaves = jax.tree.leaves(vectors)
  # k may be 0, so reshape(k, -1) would be ambiguous.
  rows = [x.reshape(len(x), int(np.prod(x.shape[1:]))) for x in leaves]
  return np.concatenate(rows, axis=1)


def _unit(vector: np.ndarray) -> np.ndarray:
  vector = vector.astype(np.float64)
  return vector / np.linalg.norm(vector)
