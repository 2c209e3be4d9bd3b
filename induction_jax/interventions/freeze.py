"""Parameters frozen for a whole run: bit for bit what they were at step 0."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax

from induction_jax.interventions.names import choose, split_list
from induction_jax.spectra import Partition
from induction_jax.types import Params, PyTree

LEAF = "intervention.freeze"


def frozen_mask(text: str, shapes: Params, partition: Partition) -> PyTree:
  """Which parameters a list of names stands for.

  Args:
    text: names of parameters (w_e) and of blocks (`qk L0H1`, `ov L1H*`). Heads
      may also be written layer.head, as in clamps (`qk 0.1`, `ov 1.*`).
    shapes: the parameters, or their shapes.
    partition: of the parameters into blocks.

  Returns:
    A pytree like `shapes` of bool numpy arrays.

  Raises:
    ConfigError: if there is no such parameter or block.
  """
  known = list(dict.fromkeys([*shapes, *partition.names]))
  items = [
    re.sub(r"(\S+)\.(\S+)", r"L\1H\2", item) for item in split_list(text)
  ]
  chosen = {name for item in items for name in choose(LEAF, item, known)}
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
    # Chosen and not multiplied: what is left out may not even be finite.
    return jax.tree.map(lambda off, x: jnp.where(off, 0, x), mask, updates)

  return optax.stateless(update)
