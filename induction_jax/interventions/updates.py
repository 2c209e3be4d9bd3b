"""Updates of a run: parameters frozen, updates projected.

Song, Ahn and Yun 2024 (arXiv 2405.16002) project updates. Most of a gradient
lies in the top-k eigenspace of the loss Hessian, as Gur-Ari et al. 2018 (arXiv
1812.04754) found. Yet training with updates inside that eigenspace stops, and
training with updates outside of it continues as before.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from induction_jax import spectra
from induction_jax.config import Config, ConfigError
from induction_jax.interventions.names import choose, split_list
from induction_jax.training.state import stream
from induction_jax.types import Array, Key, Params, PyTree

# Index of a draw from the stream "spectra" that no measurement uses.
LANCZOS_DRAW = 100
FREEZE_LEAF = "intervention.freeze"

Eigenspace = Callable[[Params, Key], spectra.Eigenpairs]
Largest = Callable[[spectra.Operator, Params, int, Key], spectra.Eigenpairs]


class ProjectionState(NamedTuple):
  """The state of the projection between updates.

  Attributes:
    step: number of updates done, int32.
    vectors: of the latest eigenspace, leaves [k, ...], orthonormal.
    converged: fraction of its k eigenpairs that have converged.
    share: fraction of the squared norm of the latest update, before projection,
      that lay inside the eigenspace; k / P for a random direction.
  """

  step: Array
  vectors: PyTree
  converged: Array
  share: Array


def intervene(
  tx: optax.GradientTransformation,
  config: Config,
  shapes: Params,
  partition: spectra.Partition,
  hessian_at: Callable[[Params, Key], spectra.Operator],
  largest: Largest,
) -> optax.GradientTransformation:
  """Wraps an optimiser with the freezing and projection of a config.

  Frozen parameters are excluded everywhere: the optimiser and clipping see a
  gradient of zero, the eigenspace is that of the Hessian of the other
  parameters, and the update is zero even with weight decay.

  Args:
    tx: the optimiser; returned unchanged if the config has no intervention.
    config: of the run.
    shapes: the parameters, or their shapes.
    partition: of the parameters into blocks, which can be frozen by name.
    hessian_at: (params, the run's key) -> the Hessian whose eigenspace is used.
    largest: (operator, params, k, key) -> its k largest eigenpairs.

  Raises:
    ConfigError: if a name does not exist, or fewer parameters are free than
      eigenvectors are wanted.
  """
  c = config.intervention
  mask = frozen_mask(c.freeze, shapes, partition)
  if c.project != "none":
    free = sum(int(np.sum(~frozen)) for frozen in mask.values())
    if c.project_top_k > free:
      raise ConfigError(
        "intervention.project_top_k must be at most the number of parameters "
        f"that are not frozen, {free}, got {c.project_top_k}"
      )
    eigenspace = _make_eigenspace(config, mask, hessian_at, largest)
    onto = c.project == "onto"
    projection = project(
      eigenspace, c.project_top_k, c.project_interval, onto=onto
    )
    tx = optax.chain(tx, projection)
  if c.freeze:
    tx = optax.chain(freeze(mask), tx, freeze(mask))
  return tx


def frozen_mask(text: str, shapes: Params, partition: spectra.Partition) -> Any:
  """Which parameters a list of names freezes.

  Args:
    text: names of parameters (`w_e`) and of blocks (`qk L0H1`, `ov L1H*`).
    shapes: the parameters, or their shapes.
    partition: of the parameters into blocks.

  Returns:
    A pytree like `shapes` of bool numpy arrays.

  Raises:
    ConfigError: if there is no such parameter or block.
  """
  known = list(dict.fromkeys([*shapes, *partition.names]))
  chosen = {
    name
    for item in split_list(text)
    for name in choose(FREEZE_LEAF, item, known)
  }
  in_block = np.isin(
    partition.ids,
    [i for i, name in enumerate(partition.names) if name in chosen],
  )
  # The order of ids is that of jax.tree.leaves.
  leaves = jax.tree.leaves(shapes)
  parts = np.split(in_block, np.cumsum([leaf.size for leaf in leaves])[:-1])
  blocks = jax.tree.unflatten(
    jax.tree.structure(shapes),
    [part.reshape(leaf.shape) for part, leaf in zip(parts, leaves)],
  )
  return {name: blocks[name] | (name in chosen) for name in shapes}


def freeze(mask: PyTree) -> optax.GradientTransformation:
  """Sets gradients, or updates, to zero where `mask` is true."""

  def update(updates: PyTree, _: PyTree) -> PyTree:
    # A product with the mask would keep entries that are not finite.
    return jax.tree.map(lambda off, x: jnp.where(off, 0, x), mask, updates)

  return optax.stateless(update)


def project(
  eigenspace: Eigenspace, k: int, interval: int, *, onto: bool
) -> optax.GradientTransformationExtraArgs:
  """Projects updates onto an eigenspace, or onto its orthogonal complement.

  It follows the optimiser in a chain. The projected vector is therefore the
  update, including momentum, Adam's preconditioner and weight decay; for plain
  SGD that is a multiple of the gradient. The optimiser's own averages are those
  of the full gradient.

  The eigenvectors are part of the optimiser's state. They are recomputed before
  updates 0, interval, 2 interval, … at the current parameters, by the program
  that trains. The bits of a run therefore depend neither on how its steps are
  cut into chunks nor on where it was resumed.

  Cost: k P floats, and one call of `eigenspace` every `interval` updates.

  Args:
    eigenspace: (params, the run's key) -> k orthonormal eigenpairs.
    k: dimension of the eigenspace.
    interval: number of updates after which it is recomputed.
    onto: whether to keep the part inside the eigenspace, instead of the rest.
  """

  def init(params: Params) -> ProjectionState:
    return ProjectionState(
      step=jnp.zeros((), jnp.int32),
      vectors=jax.tree.map(lambda x: jnp.zeros((k, *x.shape), x.dtype), params),
      converged=jnp.zeros(()),
      share=jnp.zeros(()),
    )

  def update(
    updates: PyTree,
    state: ProjectionState,
    params: Any = None,
    *,
    key: Key,
    **_: Any,
  ) -> tuple[PyTree, ProjectionState]:
    def refresh() -> tuple[PyTree, Array]:
      pairs = eigenspace(params, key)
      return pairs.vectors, jnp.mean(pairs.converged.astype(jnp.float32))

    vectors, converged = jax.lax.cond(
      state.step % interval == 0,
      refresh,
      lambda: (state.vectors, state.converged),
    )
    within = inside(vectors, updates)
    square = optax.tree.norm(updates, squared=True)
    new_state = ProjectionState(
      step=state.step + 1,
      vectors=vectors,
      converged=converged,
      share=optax.tree.norm(within, squared=True) / square,
    )
    return within if onto else optax.tree.sub(updates, within), new_state

  return optax.GradientTransformationExtraArgs(init, update)


def inside(vectors: PyTree, x: PyTree) -> PyTree:
  """The orthogonal projection V V^T x onto the span of k vectors.

  Args:
    vectors: V, leaves [k, ...], orthonormal.
    x: a pytree.
  """

  def along(v: Array, x: Array) -> Array:  # [k]
    return jnp.tensordot(v, x, axes=x.ndim, precision="highest")

  coordinates = sum(jax.tree.leaves(jax.tree.map(along, vectors, x)))
  return jax.tree.map(
    lambda v: jnp.tensordot(coordinates, v, axes=1, precision="highest"),
    vectors,
  )


def _make_eigenspace(
  config: Config,
  mask: dict[str, np.ndarray],
  hessian_at: Callable[[Params, Key], spectra.Operator],
  largest: Largest,
) -> Eigenspace:
  """The k largest (signed) eigenpairs of the Hessian of the free parameters."""
  free = jax.tree.map(np.logical_not, mask)

  def eigenspace(params: Params, key: Key) -> spectra.Eigenpairs:
    hessian = hessian_at(params, key)
    if config.intervention.freeze:
      hessian = spectra.restrict(hessian, free)
    draw = jax.random.fold_in(stream(key, "spectra"), LANCZOS_DRAW)
    return largest(hessian, params, config.intervention.project_top_k, draw)

  return eigenspace
