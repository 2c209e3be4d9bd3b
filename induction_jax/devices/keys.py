"""Typed random keys as the numbers they are made of, and back.

Files, and messages between processes, hold numbers alone.
"""

from typing import Any

import jax

from induction_jax.types import PyTree


def key_data(tree: PyTree) -> PyTree:
  """A pytree with every typed key as its data; all else is as it is."""
  return jax.tree.map(
    lambda x: jax.random.key_data(x) if is_key(x) else x, tree
  )


def wrap_keys(like: PyTree, tree: PyTree) -> PyTree:
  """The inverse: keys wherever `like` has them, of the same implementation."""

  def wrap(expected: Any, x: Any) -> Any:
    if not is_key(expected):
      return x
    return jax.random.wrap_key_data(x, impl=jax.random.key_impl(expected))

  return jax.tree.map(wrap, like, tree)


def is_key(x: Any) -> bool:
  """Whether it is an array of typed keys."""
  return isinstance(x, jax.Array) and jax.dtypes.issubdtype(
    x.dtype, jax.dtypes.prng_key
  )
