"""Checkpoints of a pytree by step. The only module that imports orbax.

Orbax writes each checkpoint beside its place and renames it when it is whole;
a directory without its metadata is not a checkpoint and is passed over. Saves
return when the bytes are on disk, so an error belongs to the save that made
it.

Runs that are trained together are saved together, stacked; a directory of
`link` then stands for the part of one of them.
"""

import json
import os
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from induction_jax.types import PyTree


class Part(NamedTuple):
  """One of many runs whose checkpoints are stacked."""

  stacked: Path  # directory of their checkpoints
  row: int  # of the leading axis of every leaf
  rows: int  # of that axis


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


def link(directory: Path, part: Part) -> None:
  """Lets a directory give, beside its own checkpoints, a part of others."""
  directory.mkdir(parents=True, exist_ok=True)
  # Relative, so that the directory above both can be moved.
  stacked = os.path.relpath(part.stacked, directory)
  values = part._asdict() | {"stacked": stacked}
  partial = directory / "part.json.partial"
  partial.write_text(json.dumps(values) + "\n")
  partial.replace(directory / "part.json")


def steps(directory: Path) -> list[int]:
  """Steps with a whole checkpoint, ascending."""
  part = _part(directory)
  others = _own_steps(part.stacked) if part else set()
  return sorted(_own_steps(directory) | others)


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
  part = _part(directory)
  if part and step not in _own_steps(directory):
    return _restore_part(part, step, like)
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


def _own_steps(directory: Path) -> set[int]:
  if not directory.exists():
    return set()
  return {
    int(path.name)
    for path in directory.iterdir()
    if path.name.isdecimal() and (path / "_CHECKPOINT_METADATA").exists()
  }


def _part(directory: Path) -> Part | None:
  path = directory / "part.json"
  if not path.exists():
    return None
  part = Part(**json.loads(path.read_text()))
  return part._replace(stacked=directory / part.stacked)


def _restore_part(part: Part, step: int, like: PyTree) -> PyTree:
  all_like = jax.tree.map(
    lambda x: jnp.broadcast_to(x, (part.rows, *x.shape)), like
  )
  restored = restore(part.stacked, step, all_like)
  return jax.tree.map(lambda x: x[part.row], restored)


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
