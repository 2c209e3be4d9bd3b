"""Updates projected onto, or off, the top eigenspace of the loss Hessian.

Song, Ahn and Yun 2024 (arXiv 2405.16002): though most of a gradient lies in
the top-k eigenspace, training with updates kept inside it stops, and with
updates kept out of it goes on as before. Gur-Ari et al. 2018 (arXiv
1812.04754) found the first half.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from induction_jax.spectra import Eigenpairs
from induction_jax.types import Array, Key, Params, PyTree

Eigenspace = Callable[[Params, Key], Eigenpairs]


class ProjectionState(NamedTuple):
  """What the projection carries from one update to the next.

  Attributes:
    step: updates done, int32.
    vectors: of the newest eigenspace, leaves [k, ...], orthonormal.
    converged: share of its k pairs that are converged.
    share: of the newest update's squared norm, as the optimiser gave it, the
      part inside the eigenspace; k / P for one of random direction.
  """

  step: Array
  vectors: PyTree
  converged: Array
  share: Array


def project(
  eigenspace: Eigenspace, k: int, interval: int, *, onto: bool
) -> optax.GradientTransformationExtraArgs:
  """Keeps an optimiser's updates inside an eigenspace, or outside of it.

  To be chained after the optimiser: what is projected is the update, with
  momentum, Adam's preconditioner and weight decay in it; for plain SGD that is
  the gradient but for a factor. The optimiser's own averages stay those of
  the whole gradient.

  The eigenvectors are part of the optimiser's state and computed anew before
  updates 0, interval, 2 interval, … at the parameters of that moment, by the
  program that trains: a run's bits depend neither on how its steps are cut
  into chunks nor on where it was resumed.

  Cost: k P floats; and every `interval` updates one call of `eigenspace`.

  Args:
    eigenspace: (params, the run's key) -> k orthonormal eigenpairs.
    k: its dimension.
    interval: updates for which it serves.
    onto: keep what is inside; else what is outside.
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
  """The part V V^T x of a pytree in the span of k orthonormal ones.

  Args:
    vectors: V, leaves [k, ...].
    x: a pytree.
  """

  def along(v: Array, x: Array) -> Array:  # [k]
    return jnp.tensordot(v, x, axes=x.ndim, precision="highest")

  coordinates = sum(jax.tree.leaves(jax.tree.map(along, vectors, x)))
  return jax.tree.map(
    lambda v: jnp.tensordot(coordinates, v, axes=1, precision="highest"),
    vectors,
  )
