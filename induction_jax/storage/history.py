"""The run's history: an append-only file of JSON lines.

Each line is {"step", "kind", "values"}, kind being `constants` (once, first),
`train` (means over the steps since the line before) or `probe` (with the
probe's name). Values are numbers or nested lists; null stands for nan. No
time or place is in it, so that two equal runs have equal histories.
"""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from induction_jax.config import ConfigError

Record = dict[str, Any]


def append(
  path: Path,
  step: int,
  kind: str,
  values: Mapping[str, Any],
  *,
  sync: bool = True,
  **extra: Any,
) -> None:
  """Appends one record and, with `sync`, forces it to disk."""
  record = {"step": step, "kind": kind, **extra}
  record["values"] = {name: _encode(value) for name, value in values.items()}
  with path.open("a", encoding="utf-8") as file:
    file.write(json.dumps(record, allow_nan=False) + "\n")
    file.flush()
    if sync:
      os.fsync(file.fileno())


def force_to_disk(path: Path) -> None:
  """Forces all that was appended to disk."""
  with path.open("a", encoding="utf-8") as file:
    os.fsync(file.fileno())


def read(path: Path) -> list[Record]:
  """All whole records; a line cut off by a crash is left out.

  Raises:
    ConfigError: if a whole line is not JSON.
  """
  if not path.exists():
    return []
  lines = path.read_text(encoding="utf-8").split("\n")
  # What follows the last newline was never finished.
  return [_decode(path, i, line) for i, line in enumerate(lines[:-1], 1)]


def truncate(path: Path, last_step: int) -> None:
  """Drops every record after `last_step` and any half-written line."""
  kept = [record for record in read(path) if record["step"] <= last_step]
  replace_text(path, _join(kept))


def replace_text(path: Path, text: str) -> None:
  """Writes a file whole, then renames it into place."""
  partial = path.with_name(path.name + ".partial")
  with partial.open("w", encoding="utf-8") as file:
    file.write(text)
    file.flush()
    os.fsync(file.fileno())
  partial.replace(path)


def _join(records: Iterable[Record]) -> str:
  return "".join(
    json.dumps(record, allow_nan=False) + "\n" for record in records
  )


def _decode(path: Path, number: int, line: str) -> Record:
  try:
    return json.loads(line)
  except ValueError as error:
    raise ConfigError(f"{path}, line {number}, is not JSON: {error}") from error


def _encode(value: Any) -> Any:
  """Nested lists with the shortest decimals that give the float back."""
  array = np.asarray(value)
  if array.dtype == np.float32:
    flat = [float(str(x)) for x in array.ravel()]
    array = np.array(flat, np.float64).reshape(array.shape)
  if np.issubdtype(array.dtype, np.floating):
    finite = np.isfinite(array)
    array = array.astype(object)
    array[~finite] = None
  return array.tolist()
