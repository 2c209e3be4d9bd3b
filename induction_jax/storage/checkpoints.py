"""Checkpoints of a pytree by step. The only module that imports orbax.

Orbax writes each checkpoint beside its place and renames it when it is whole;
a directory without its metadata is not a checkpoint and is passed over. Saves
return when the bytes are on disk, so an error belongs to the save that made
it.
"""

from pathlib import Path

import jax
import orbax.checkpoint as ocp

from induction_jax.types import PyTree


def save(directory: Path, step: int, tree: PyTree) -> None:
  """Saves a pytree of arrays and typed keys under `directory`/step.

  A step that has a checkpoint already keeps it.

  Raises:
    OSError: if it cannot be written; earlier checkpoints stay.
  """
  if step in steps(directory):
    return
  path = directory.absolute() / str(step)
  try:
    with ocp.StandardCheckpointer() as checkpointer:
      # Overwrites what a crash may have left behind without metadata.
      checkpointer.save(path, _key_data(tree), force=True)
  except Exception as error:  # orbax has no one type for a failed write
    reason = str(error).strip().splitlines()[0]
    kept = ", ".join(map(str, steps(directory))) or "none"
    raise OSError(
      f"checkpoint {path} was not saved ({reason}); saved before it: steps "
      f"{kept}"
    ) from error


def steps(directory: Path) -> list[int]:
  """Steps with a whole checkpoint, ascending."""
  if not directory.exists():
    return []
  return sorted(
    int(path.name)
    for path in directory.iterdir()
    if path.name.isdecimal() and (path / "_CHECKPOINT_METADATA").exists()
  )


def restore(directory: Path, step: int, like: PyTree) -> PyTree:
  """Restores the checkpoint of a step.

  Args:
    directory: where the checkpoints are.
    step: one of steps(directory).
    like: a pytree with the structure, shapes, dtypes and key types expected.

  Raises:
    ValueError: if names, shapes or dtypes differ from those of `like`; orbax
      alone would cast one dtype to another without a word.
  """
  path = directory.absolute() / str(step)
  abstract = jax.tree.map(_describe, _key_data(like))
  with ocp.StandardCheckpointer() as checkpointer:
    stored = checkpointer.metadata(path).item_metadata.tree
    _check_same_leaves(path, stored, abstract)
    restored = checkpointer.restore(path, abstract)

  def typed(expected: jax.Array, got: jax.Array) -> jax.Array:
    if not _is_key(expected):
      return got
    return jax.random.wrap_key_data(got, impl=jax.random.key_impl(expected))

  return jax.tree.map(typed, like, restored)


def _key_data(tree: PyTree) -> PyTree:
  """Orbax stores typed keys as what they are made of."""
  return jax.tree.map(
    lambda x: jax.random.key_data(x) if _is_key(x) else x, tree
  )


def _is_key(x: jax.Array) -> bool:
  return jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)


def _check_same_leaves(path: Path, stored: PyTree, like: PyTree) -> None:
  got, expected = _leaves(stored), _leaves(like)
  for name in sorted({*got, *expected}):
    if got.get(name) != expected.get(name):
      raise ValueError(
        f"checkpoint {path}: {name} must be {expected.get(name, 'absent')}, "
        f"got {got.get(name, 'nothing')}"
      )


def _leaves(tree: PyTree) -> dict[str, str]:
  """Shape and dtype of every leaf, by a name that orbax does not change."""
  return {
    jax.tree_util.keystr(path, simple=True, separator="."): (
      f"{leaf.dtype}{list(leaf.shape)}"
    )
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
  }


def _describe(x: jax.Array) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
