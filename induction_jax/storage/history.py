"""The history of a run: an append-only file of JSON lines.

Every line is one record, an object with these fields:

  step    the training step
  kind    `constants` (null values and other numbers measured once, at step 0),
          `train` (means over the updates since the previous `train` record),
          `measurement`, or `replay` (a replay compared with a checkpoint)
  values  numbers or nested lists of numbers by variable; null stands for nan

A `constants` or `measurement` record also has `measurement`, its name. A
record holds no time and no place, so equal runs have equal histories.
"""

import errno
import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from induction_jax.config import ConfigError, shown
from induction_jax.storage.files import (
  check_fields,
  parse_json,
  read_text,
  replace_text,
)

Record = dict[str, Any]

STEP = re.compile(r'{"step": (\d{1,10}),')  # as a line begins
# The fields of each kind of record besides step, kind and values.
KINDS: dict[str, dict[str, Any]] = {
  "constants": {"measurement": str},
  "train": {},
  "measurement": {"measurement": str},
  "replay": {
    "start": int,
    "equal": bool,
    "largest_difference": (int, float, type(None)),
  },
}
ZOOM = {"from": int, "to": int, "every": int}
# Variables that files of earlier versions call by another name.
RENAMED_VARIABLES = {
  "prefix_matching_probe": "prefix_matching_back_to_back",
  "prefix_matching_probe_null": "prefix_matching_back_to_back_null",
}


def append(
  path: Path,
  step: int,
  kind: str,
  values: Mapping[str, Any],
  *,
  sync: bool = True,
  **extra: Any,
) -> None:
  """Appends one record and, with `sync`, forces it to disk.

  Args:
    path: the history's file, which is made if it is missing.
    step: the training step.
    kind: one of KINDS.
    values: numbers or arrays by variable.
    sync: whether the line is on disk on return.
    **extra: the further fields of the record.

  Raises:
    OSError: if it cannot be written; the file is then unchanged.
  """
  record = {"step": step, "kind": kind, **extra}
  record["values"] = {name: _encode(value) for name, value in values.items()}
  line = json.dumps(record, allow_nan=False) + "\n"
  try:
    _append_line(path, line.encode(), sync)
  except OSError as error:
    reason = error.strerror or error
    raise OSError(f"{path} cannot be added to: {reason}") from error


def read(path: Path) -> list[Record]:
  """Reads every complete record; a line cut off by a crash is left out.

  Records of earlier versions are returned in the present form.

  Raises:
    ConfigError: if a complete line is not a record, or the file is too large.
  """
  lines = enumerate(_complete_lines(path), 1)
  return [_decode(path, number, line) for number, line in lines]


def checksum(path: Path, last_step: int) -> str:
  """Returns the checksum of the lines that `truncate` would keep.

  It is computed at every checkpoint, so it parses of each line the step only.

  Raises:
    ConfigError: if the step of a line cannot be read, or the file is too large.
  """
  digest = hashlib.blake2b(digest_size=16)
  for number, line in enumerate(_complete_lines(path), 1):
    found = STEP.match(line)
    step = int(found[1]) if found else _decode(path, number, line)["step"]
    if step <= last_step:
      digest.update(f"{line}\n".encode())
  return digest.hexdigest()


def truncate(path: Path, last_step: int) -> None:
  """Drops every record after `last_step` and any half-written line.

  The lines of the other records stay exactly as they were written.

  Raises:
    ConfigError: if a complete line is not a record, or the file is too large.
  """
  kept = (
    line
    for number, line in enumerate(_complete_lines(path), 1)
    if _decode(path, number, line)["step"] <= last_step
  )
  replace_text(path, "".join(f"{line}\n" for line in kept))


def _complete_lines(path: Path) -> list[str]:
  """All lines but the last, which has no newline: it was never finished."""
  return read_text(path).split("\n")[:-1] if path.exists() else []


def _append_line(path: Path, line: bytes, sync: bool) -> None:
  """Appends after the last complete line, or leaves the file unchanged."""
  with path.open("ab", buffering=0) as file:
    end = _complete_length(path)
    try:
      file.truncate(end)
      if file.write(line) != len(line):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
      if sync:
        os.fsync(file.fileno())
    except OSError:
      file.truncate(end)
      raise


def _complete_length(path: Path) -> int:
  """Bytes up to the end of the last complete line."""
  with path.open("rb") as file:
    end = file.seek(0, os.SEEK_END)
    if end == 0:
      return 0
    file.seek(end - 1)
    if file.read(1) == b"\n":
      return end
    file.seek(0)
    return file.read().rfind(b"\n") + 1


def _decode(path: Path, number: int, line: str) -> Record:
  where = f"{path}, line {number},"
  record = check_fields(
    parse_json(line, where), where, {"step": int, "kind": str, "values": dict}
  )
  record = _in_present_form(record)
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


def _in_present_form(record: Record) -> Record:
  """Renames what earlier versions called otherwise: a measurement a probe."""
  if record["kind"] == "probe":
    record["kind"] = "measurement"
  values = {
    RENAMED_VARIABLES.get(name, name): value
    for name, value in record["values"].items()
  }
  return {
    "measurement" if name == "probe" else name: value
    for name, value in (record | {"values": values}).items()
  }


def _is_numbers(value: Any) -> bool:
  """Whether a value is a number, null, or nested lists of equal lengths."""
  try:
    array = np.array(value)
    if array.dtype != object:
      return array.dtype.kind in "fiu"
    array.astype(np.float64)  # an error if one is too large for a float
    return all(x is None or type(x) in (int, float) for x in array.flat)
  except (ValueError, TypeError, OverflowError):
    return False


def _encode(value: Any) -> Any:
  """Nested lists of the shortest decimals that parse to the same floats."""
  array = np.asarray(value)
  if array.dtype == np.float32:
    flat = [float(str(x)) for x in array.ravel()]
    array = np.array(flat, np.float64).reshape(array.shape)
  if np.issubdtype(array.dtype, np.floating):
    finite = np.isfinite(array)
    array = array.astype(object)
    array[~finite] = None
  return array.tolist()
