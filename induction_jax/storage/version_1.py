"""Checkpoints as version 1 of the format has them, which are only read.

A checkpoint of version 1 holds one orbax array for each leaf. Seeds that were
trained together were saved together, stacked along a leading axis; the
checkpoint directory of each such seed has a `part.json`, which says where the
stacked checkpoints are and which row is the seed's. Checkpoints of the present
version that were saved in the seed's own directory take precedence.
"""

from pathlib import Path
from typing import Any, NamedTuple

from induction_jax.config import ConfigError
from induction_jax.storage.checkpoint_format import Leaves
from induction_jax.storage.files import (
  check_inside,
  check_tree,
  read_object,
)

NAME = "part.json"


class Part(NamedTuple):
  """One seed's share of stacked checkpoints.

  Attributes:
    stacked: the directory of the stacked checkpoints.
    row: the seed's index along the leading axis of every leaf.
    rows: the size of that axis.
  """

  stacked: Path
  row: int
  rows: int


def read_part(directory: Path) -> Part | None:
  """Reads the part.json of a checkpoint directory; None if it has none.

  Raises:
    ConfigError: if it is damaged or leads out of the sweep's directory.
  """
  path = directory / NAME
  if not path.exists():
    return None
  values = read_object(path, stacked=str, row=int, rows=int)
  part = Part(*(values[name] for name in Part._fields))
  if part.row >= part.rows:
    raise ConfigError(f"{path}: row must be below rows, got {part.row}")
  stacked = directory / part.stacked
  check_inside(stacked, directory.parent.parent)  # the sweep's directory
  if stacked.exists():
    check_tree(stacked)
  return part._replace(stacked=stacked)


def stacked_kinds(part: Part, kinds: dict[str, str]) -> dict[str, str]:
  """Dtype and shape of stacked leaves, from those of one seed's leaves."""
  return {
    name: kind.replace("[", f"[{part.rows}, ", 1).replace(", ]", "]")
    for name, kind in kinds.items()
  }


def take_row(part: Part, leaves: Leaves, names: set[str]) -> Leaves:
  """One seed's leaves, those of certain names."""
  return {name: leaves[name][part.row] for name in names}


def note_of_part(part: Part, note: Any) -> Any:
  """The note of one seed, from that of seeds that were saved together."""
  match note:
    case {"records": list(records)} if len(records) == part.rows:
      return note | {"records": records[part.row]}
  return note
