"""Measurements of a network's weights that do not come from a run.

Variables have the names that they have in a run, without the dimension `step`.
Vocabularies and numbers of heads may be as large as in published models: no
[V, V] matrix is formed, and pairs of heads are computed for two layers at a
time.
"""

import json
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from induction_jax import circuits, tasks
from induction_jax.config import ConfigError
from induction_jax.exchange import Architecture
from induction_jax.measurements import ablation as run_ablation
from induction_jax.measurements import behaviour as run_behaviour
from induction_jax.measurements import circuits as run_circuits
from induction_jax.measurements.measurement import Values
from induction_jax.model import losses, make_model
from induction_jax.storage import dataset
from induction_jax.types import Array, Batch, Key, Params

# The least number of random heads for a score's standard deviation.
NULL_SAMPLES = 64
SCORES = ("ov_copying", "qk_matching", "k_composed_matching")

# The declarations of a run, without the dimension `step`.
VARIABLES = tuple(
  variable._replace(dims=variable.dims[variable.dims[:1] == ("step",) :])
  for variable in (
    *run_behaviour.VARIABLES,
    *run_circuits.VARIABLES,
    *run_ablation.VARIABLES,
  )
)


class Sequences(NamedTuple):
  """Sizes of the batch of `repeats`; ranges are inclusive."""

  batch_size: int
  seq_length: int
  pattern: tuple[int, int]
  gap: tuple[int, int]


def measure_weights(
  architecture: Architecture,
  params: Params,
  sizes: Sequences,
  seed: int,
  ablate: bool,
) -> xr.Dataset:
  """Measures behaviour and circuits, and ablates every head if asked.

  Args:
    architecture: the network's settings.
    params: its weights.
    sizes: sizes of the sequences on which it is measured.
    seed: seed of the sequences and of the random heads for null values.
    ablate: whether to zero-ablate every head.

  Returns:
    A labelled dataset, with null values.

  Raises:
    ConfigError: if the network cannot read such sequences.
  """
  batch_key, null_key = jax.random.split(jax.random.key(seed))
  batch = sample_batch(architecture, sizes, batch_key)
  if not np.any(batch.predictable):
    raise ConfigError(
      "no pattern recurs in any sequence, so nothing can be predicted: lower "
      "--pattern or --gap, or raise --seq-length"
    )
  values = measure_behaviour(architecture, params, batch)
  values |= measure_circuits(architecture, params, null_key)
  if ablate:
    values |= measure_ablation(architecture, params, batch)
  return dataset.make_dataset(
    [{"step": 0, "values": values}],
    VARIABLES,
    coordinates={},
    attributes={
      "title": "weights measured by induction_jax",
      "sequences": json.dumps(sizes._asdict() | {"seed": seed}),
      "network": json.dumps(
        vars(architecture.config) | architecture.convention._asdict()
      ),
    },
  ).drop_vars("step")


def sample_batch(
  architecture: Architecture, sizes: Sequences, key: Key
) -> Batch:
  """Samples random tokens with recurring patterns.

  Raises:
    ConfigError: if the network cannot read such sequences, or the sizes
      contradict one another.
  """
  (low, high), (gap_low, gap_high) = sizes.pattern, sizes.gap
  if not 2 <= sizes.seq_length <= architecture.seq_length:
    raise ConfigError(
      "seq_length must be from 2 to the network's own "
      f"{architecture.seq_length}, got {sizes.seq_length}"
    )
  if not 2 <= low <= high < architecture.vocab_size:
    raise ConfigError(
      "pattern must be a range from 2 up to less than the vocabulary of "
      f"{architecture.vocab_size}, got {low} to {high}"
    )
  if not 0 <= gap_low <= gap_high or 2 * low + gap_low > sizes.seq_length:
    raise ConfigError(
      "gap must be a range from 0 up, and seq_length hold two patterns and a "
      f"gap, got gaps of {gap_low} to {gap_high}, patterns of {low} at least "
      f"and seq_length {sizes.seq_length}"
    )
  sample = partial(
    tasks.sample_repeats,
    batch_size=sizes.batch_size,
    vocab_size=architecture.vocab_size,
    seq_length=sizes.seq_length,
    pattern=sizes.pattern,
    gap=sizes.gap,
  )
  return jax.jit(sample)(key)


@jax.default_matmul_precision("highest")
def measure_behaviour(
  architecture: Architecture, params: Params, batch: Batch
) -> Values:
  """Losses, accuracies and head scores on a batch, with their null values.

  Cost: one forward pass, and L B H T^2 floats for the attention patterns.
  """
  apply = make_model(*architecture).apply

  @jax.jit
  def measure(params: Params) -> dict[str, Array]:
    logits, activations = apply(params, batch.tokens)
    scores = circuits.score_heads(activations.pattern, batch)._asdict()
    nulls = circuits.null_scores(batch)._asdict()
    values = losses.evaluate(logits, batch) | scores
    return values | {f"{name}_null": x for name, x in nulls.items()}

  values: Values = jax.device_get(measure(params))
  for tokens in ("pattern", "random"):
    values[f"{tokens}_accuracy_null"] = np.array(1 / architecture.vocab_size)
    values[f"{tokens}_loss_null"] = np.log(np.array(architecture.vocab_size))
  return values


@jax.default_matmul_precision("highest")
def measure_circuits(
  architecture: Architecture, params: Params, key: Key
) -> Values:
  """Eigenvalue scores and composition of all heads, with their null values.

  The null distribution of a score is over heads with Gaussian weights between
  this network's own embedding and unembedding.

  Cost: a QR decomposition of the embedding, V D^2, and the eigenvalues of one
  [K, K] matrix for every pair of heads in different layers.
  """
  norm = architecture.config.norm
  weights = jax.jit(lambda p: compress(circuits.fold_norms(p, norm)))(params)
  n_layers, n_heads, d_model, _ = weights.w_q.shape
  values = {name: _score(x) for name, x in _singles(weights).items()}
  shape = (n_layers, n_heads, n_layers, n_heads)
  for reader, writer in np.argwhere(np.tri(n_layers, k=-1)).tolist():
    for name, x in _pairs(_layers(weights, writer, reader)).items():
      table = values.setdefault(name, np.full(shape, np.nan))
      table[reader, :, writer] = _score(x) if name in SCORES else x
  for name in values.keys() - set(SCORES):
    values[f"{name}_null"] = np.array(d_model**-0.5)
  return values | _nulls(weights, key)


def measure_ablation(
  architecture: Architecture, params: Params, batch: Batch
) -> Values:
  """The loss increase on predictable tokens if a head is zero-ablated.

  Cost: a forward pass for each head.
  """
  apply = make_model(*architecture).apply

  @jax.jit
  def token_losses(params: Params, keep: Array) -> Array:  # [B, T]
    with jax.default_matmul_precision("highest"):
      w_o = params["w_o"] * keep[..., None, None]
      logits, _ = apply(params | {"w_o": w_o}, batch.tokens)
      return losses.token_losses(logits, batch.targets)

  keep = np.ones(params["w_o"].shape[:2], np.float32)
  baseline = token_losses(params, keep)
  costs, errors = np.zeros(keep.shape), np.zeros(keep.shape)
  for head in np.ndindex(*keep.shape):
    without = keep.copy()
    without[head] = 0
    rise = token_losses(params, without) - baseline
    cost = circuits.estimate_mean(rise, batch.predictable.astype(rise.dtype))
    costs[head], errors[head] = cost.mean, cost.standard_error
  return {
    "ablation_cost": costs,
    "ablation_cost_se": errors,
    "ablation_cost_null": np.zeros(()),
  }


def compress(weights: circuits.CircuitWeights) -> circuits.CircuitWeights:
  """Reduces the vocabulary to D tokens and keeps the circuits' eigenvalues.

  With W_E = Q R, where Q has orthonormal columns, W_E X W_E^T and W_E X W_U
  have the same non-zero eigenvalues as R X R^T and R X (W_U Q). This changes
  the basis of token space, so entries of single tokens are not kept.
  """
  q, r = jnp.linalg.qr(weights.w_e)  # [V, D], [D, D]
  return weights._replace(w_e=r, w_u=weights.w_u @ q)


@jax.jit
def _singles(weights: circuits.CircuitWeights) -> dict[str, Array]:
  return {
    "ov_copying": circuits.copying_matrices(weights),
    "qk_matching": circuits.matching_matrices(weights),
  }


@jax.jit
def _pairs(weights: circuits.CircuitWeights) -> dict[str, Array]:
  """Scores and compositions of a writer's and a reader's layer.

  Args:
    weights: weights of the two layers, first the writer's.

  Returns:
    Arrays [reader H, writer H, ...].
  """
  composed = circuits.composition(weights)._asdict()
  pairs = {f"{name}_composition": x for name, x in composed.items()}
  pairs["k_composed_matching"] = circuits.k_composed_matrices(weights)
  return {name: x[1, :, 0] for name, x in pairs.items()}


def _layers(
  weights: circuits.CircuitWeights, writer: int, reader: int
) -> circuits.CircuitWeights:
  return jax.tree.map(
    lambda x: x[np.array([writer, reader])] if x.ndim == 4 else x, weights
  )


def _score(matrices: Array) -> np.ndarray:
  return circuits.eigenvalue_score(circuits.eigenvalues(matrices))


def _nulls(weights: circuits.CircuitWeights, key: Key) -> Values:
  """Mean (0 by symmetry) and standard deviation of scores of random heads."""
  two = _layers(weights, 0, -1)
  draws = -(-NULL_SAMPLES // (2 * two.w_q.shape[1]))
  samples: dict[str, list[np.ndarray]] = {name: [] for name in SCORES}
  draw = jax.jit(circuits.random_weights)
  for each in jax.random.split(key, draws):
    heads = draw(each, two)
    heads = heads._replace(w_e=weights.w_e, w_u=weights.w_u)
    matrices = _singles(heads) | _pairs(heads)
    for name, scores in samples.items():
      scores.append(_score(matrices[name]).ravel())
  values: Values = {}
  for name, scores in samples.items():
    values[f"{name}_null"] = np.zeros(())
    values[f"{name}_null_sd"] = np.sqrt(np.mean(np.concatenate(scores) ** 2))
  return values
