"""The run's history: an append-only file of JSON lines.

Each line is {"step", "kind", "values"}, kind being `constants` (once, first),
`train` (means over the steps since the line before) or `probe` (with the
probe's name). Values are numbers or nested lists; null stands for nan. No
time or place is in it, so that two equal runs have equal histories.
"""

import errno
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from induction_jax.config import ConfigError, shown
from induction_jax.storage.documents import (
  check_fields,
  parse_json,
  read_text,
)
from induction_jax.storage.files import replace_text

Record = dict[str, Any]

# What each kind of record holds beside its step, kind and values.
KINDS: dict[str, dict[str, Any]] = {
  "constants": {"probe": str},
  "train": {},
  "probe": {"probe": str},
  "replay": {
    "start": int,
    "equal": bool,
    "largest_difference": (int, float, type(None)),
  },
}
ZOOM = {"from": int, "to": int, "every": int}


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
  line = json.dumps(record, allow_nan=False) + "\n"
  try:
    _append_line(path, line.encode(), sync)
  except OSError as error:
    reason = error.strerror or error
    raise OSError(f"{path} cannot be added to: {reason}") from error


def read(path: Path) -> list[Record]:
  """All whole records; a line cut off by a crash is left out.

  Raises:
    ConfigError: if a whole line is no record, or the file too large.
  """
  if not path.exists():
    return []
  lines = read_text(path).split("\n")
  # What follows the last newline was never finished.
  return [_decode(path, i, line) for i, line in enumerate(lines[:-1], 1)]


def checksum(path: Path, last_step: int, itself: bool = True) -> str:
  """Of the records that `truncate` would keep."""
  kept = _up_to(path, last_step + itself)
  return hashlib.blake2b(_join(kept).encode(), digest_size=16).hexdigest()


def truncate(path: Path, last_step: int, itself: bool = True) -> None:
  """Drops every record after `last_step` and any half-written line.

  Args:
    path: of the history.
    last_step: the last one to keep records of.
    itself: whether it is kept as well.
  """
  replace_text(path, _join(_up_to(path, last_step + itself)))


def _up_to(path: Path, end: int) -> list[Record]:
  return [record for record in read(path) if record["step"] < end]


def _append_line(path: Path, line: bytes, sync: bool) -> None:
  """Appends after the last whole line, or leaves the file as it was."""
  with path.open("ab", buffering=0) as file:
    end = _whole_length(path)
    try:
      file.truncate(end)
      if file.write(line) != len(line):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
      if sync:
        os.fsync(file.fileno())
    except OSError:
      file.truncate(end)
      raise


def _whole_length(path: Path) -> int:
  """Bytes up to the end of the last whole line."""
  with path.open("rb") as file:
    end = file.seek(0, os.SEEK_END)
    if end == 0:
      return 0
    file.seek(end - 1)
    if file.read(1) == b"\n":
      return end
    file.seek(0)
    return file.read().rfind(b"\n") + 1


def _join(records: Iterable[Record]) -> str:
  return "".join(
    json.dumps(record, allow_nan=False) + "\n" for record in records
  )


def _decode(path: Path, number: int, line: str) -> Record:
  where = f"{path}, line {number},"
  record = check_fields(
    parse_json(line, where), where, {"step": int, "kind": str, "values": dict}
  )
  if record["kind"] not in KINDS:
    raise ConfigError(
      f"{where} must be of a kind among {', '.join(KINDS)}, got "
      f"{shown(record['kind'])}"
    )
  check_fields(record, where, KINDS[record["kind"]])
  if "zoom" in record:
    check_fields(record["zoom"], where + " zoom", ZOOM)
  for name, value in record["values"].items():
    if not _is_numbers(value):
      raise ConfigError(
        f"{where} must hold numbers, as many in each row, got {name} = "
        f"{shown(value)}"
      )
  return record


def _is_numbers(value: Any) -> bool:
  """Whether it is a number or null, or even lists of these."""
  try:
    array = np.array(value)
    if array.dtype != object:
      return array.dtype.kind in "fiu"
    array.astype(np.float64)  # too large for a float is no number
    return all(x is None or type(x) in (int, float) for x in array.flat)
  except (ValueError, TypeError, OverflowError):
    return False


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
