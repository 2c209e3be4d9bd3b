"""What is measured: a trained network, a batch, and the float64 answer."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.sparse.linalg import LinearOperator, eigsh

from induction_jax import spectra, tasks
from induction_jax.commands import command_line
from induction_jax.config import Config
from induction_jax.model import losses
from induction_jax.run.experiment import make_experiment
from induction_jax.training.state import stream
from induction_jax.training.step import Loss, make_loss
from induction_jax.types import Array, Batch, Params

K = 10  # eigenpairs at each end
TOLERANCE = 1e-3  # relative residual at which a pair counts as found
REFERENCE_TOLERANCE = 1e-10

Product = Callable[[np.ndarray], np.ndarray]


class Size(NamedTuple):
  """A network that has begun to learn, so that both ends have outliers."""

  overrides: tuple[str, ...]  # of configs/quick.py
  train_steps: int
  examples: int  # in the Hessian's batch


SIZES = {
  # 39,360 parameters, just past the transition.
  "quick": Size((), 500, 16),
  # 1,075,456 parameters, just begun.
  "1m": Size(
    (
      "--config.model.n_layers=4",
      "--config.model.n_heads=8",
      "--config.model.d_model=256",
      "--config.optim.learning_rate=0.001",
      "--config.train.batch_size=16",
    ),
    100,
    8,
  ),
}


class Problem(NamedTuple):
  """A loss, where its Hessian is wanted, and on what."""

  loss: Loss
  params: Params
  batch: Batch
  counts: Array  # [B], tokens that count in each example

  @property
  def size(self) -> int:
    return sum(x.size for x in jax.tree.leaves(self.params))

  def split(self, examples: int | None = None) -> spectra.MicroBatches:
    """The batch in micro-batches of `examples`; whole by default."""
    size = examples or len(self.counts)
    return spectra.split_batch(self.batch, self.counts, size)


class Reference(NamedTuple):
  """Extreme eigenvalues in float64, and the product they came from."""

  top: np.ndarray  # [K], descending
  bottom: np.ndarray  # [K], ascending
  magnitude: np.ndarray  # [K], the largest in absolute value, descending
  vectors: np.ndarray  # [2 K, P], of the bottom and the top, ascending
  product: Product  # float64


class Answer(NamedTuple):
  """Eigenpairs that a solver found, in its own order."""

  values: np.ndarray  # [k]
  vectors: np.ndarray  # [k, P]
  products: int


def make_problem(
  name: str, examples: int | None = None, trained: bool = True
) -> Problem:
  """One of SIZES, trained by the project's own step.

  Args:
    name: a key of SIZES.
    examples: in the Hessian's batch; the size's own by default.
    trained: false leaves the initial weights.
  """
  size = SIZES[name]
  config = quick_config(size.overrides)
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


def find_reference(problem: Problem) -> Reference:
  """Both ends by ARPACK in float64, to REFERENCE_TOLERANCE.

  The dense Hessian would answer too, but takes 12 GB at the smaller size.
  """
  product = exact_product(problem)
  operator = LinearOperator((problem.size,) * 2, product, dtype=np.float64)
  values, vectors = eigsh(
    operator,
    2 * K,
    which="BE",
    ncv=8 * K,
    tol=REFERENCE_TOLERANCE,
    v0=np.random.default_rng(0).normal(size=problem.size),
  )
  order = np.argsort(values)
  values, vectors = values[order], vectors.T[order]
  by_magnitude = values[np.argsort(-np.abs(values))]
  return Reference(
    top=values[::-1][:K],
    bottom=values[:K],
    magnitude=by_magnitude[:K],
    vectors=vectors,
    product=product,
  )


def exact_product(problem: Problem) -> Product:
  """The Hessian's product on flat vectors, all of it in float64."""
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


def _unit(vector: np.ndarray) -> np.ndarray:
  vector = vector.astype(np.float64)
  return vector / np.linalg.norm(vector)


def quick_config(overrides: tuple[str, ...] = ()) -> Config:
  """configs/quick.py, from wherever this is run."""
  return read_config("quick", overrides)


def read_config(name: str, overrides: tuple[str, ...] = ()) -> Config:
  """A file of configs/, with `--config.<section>.<leaf>=VALUE` applied."""
  argv = ["benchmark", f"--config={config_path(name)}", *overrides]
  parser = command_line.make_parser("benchmark", "", None)
  command_line.add_config_flag(parser)
  return command_line.config_from(command_line.parse(parser, argv))


def config_path(name: str) -> Path:
  return Path(__file__).parents[2] / "configs" / f"{name}.py"
