"""Writing files that survive a crash, and reading files that are not trusted.

A file is written beside its place, forced to disk and renamed, so that a crash
leaves the earlier file or the new one, never a part. Nothing in a run directory
is executed when it is read: its files are text, JSON and arrays, checked before
memory is allocated for them, and no link in it is followed out of it.
"""

import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from induction_jax.config import ConfigError, shown
from induction_jax.devices.limits import check_fits

# Parsing takes most for empty lists: 64 bytes for every three characters.
PARSED_BYTES = 25  # for each byte of text

Kind = type | tuple[type, ...]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
  """Yields a temporary path; what is written there replaces `path` at the end.

  Both the bytes and the new name are on disk on return. If the block raises or
  the process is killed, `path` keeps what it had.
  """
  partial = path.with_name(path.name + ".partial")
  try:
    yield partial
    force_to_disk(partial)
    partial.replace(path)
  except BaseException:
    partial.unlink(missing_ok=True)
    raise
  force_to_disk(path.parent)


def replace_text(path: Path, text: str) -> None:
  """Writes a text file durably, in place of an earlier one."""
  with replacing(path) as partial:
    partial.write_text(text, encoding="utf-8")


def write_json(path: Path, values: Any) -> None:
  """Writes a JSON file durably, in place of an earlier one."""
  replace_text(path, json.dumps(values, indent=2, allow_nan=False) + "\n")


def force_to_disk(path: Path) -> None:
  """Forces a file's bytes, or a directory's names, to disk."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def check_tree(root: Path) -> None:
  """Checks that a directory holds files and directories of its own only.

  The directory itself may be a link, and a link in it may point into it.

  Raises:
    ConfigError: for a link that leads outside, and for what is neither a file
      nor a directory, such as a named pipe.
  """
  folders = [os.path.realpath(root)]
  while folders:
    with os.scandir(folders.pop()) as entries:
      for entry in entries:
        if entry.is_symlink():
          check_inside(Path(entry.path), root)
        elif entry.is_dir(follow_symlinks=False):
          folders.append(entry.path)
        elif not entry.is_file(follow_symlinks=False):
          raise ConfigError(f"{entry.path} is neither a file nor a directory")


def check_inside(path: Path, root: Path) -> None:
  """Checks that a path is below a directory once all its links are followed.

  Raises:
    ConfigError: if it is not.
  """
  if "\0" in str(path):
    raise ConfigError(f"{shown(str(path))} is not a path")
  target, inside = os.path.realpath(path), os.path.realpath(root)
  if os.path.commonpath([target, inside]) != inside:
    raise ConfigError(f"{path} leads outside {root}, to {target}")


def read_text(path: Path) -> str:
  """Reads a UTF-8 file that is to be parsed.

  Raises:
    OSError: if the file is missing or cannot be read.
    ConfigError: if it is not a regular file, not UTF-8, or so long that parsing
      it might take more memory than devices/limits.py allows.
  """
  found = path.stat()
  if not stat.S_ISREG(found.st_mode):  # reading a pipe would block
    raise ConfigError(f"{path} is not a file")
  check_fits(f"{path}, parsed,", PARSED_BYTES * found.st_size)
  try:
    return path.read_text(encoding="utf-8")
  except UnicodeDecodeError as error:
    raise ConfigError(f"{path} is not UTF-8 text: {error}") from error


def parse_json(text: str, where: str) -> Any:
  """Parses JSON strictly: no NaN, no infinity, no duplicate name.

  Args:
    text: the JSON.
    where: the file or line it comes from, for the error message.

  Raises:
    ConfigError: if it is not JSON.
  """
  try:
    return json.loads(
      text, object_pairs_hook=_object, parse_constant=_no_constant
    )
  except (ValueError, RecursionError) as error:
    raise ConfigError(f"{where} is not JSON: {error}") from error


def read_json(path: Path) -> Any:
  """Reads a JSON file.

  Raises:
    OSError: if the file is missing or cannot be read.
    ConfigError: if it is not JSON.
  """
  return parse_json(read_text(path), str(path))


def read_object(path: Path, **kinds: Kind) -> dict[str, Any]:
  """Reads a JSON file that holds an object.

  Args:
    path: the file.
    **kinds: the type of each field that the object must have.

  Raises:
    OSError: if the file is missing or cannot be read.
    ConfigError: if it holds anything else.
  """
  return check_fields(read_json(path), str(path), kinds)


def check_fields(
  values: Any, where: str, kinds: Mapping[str, Kind]
) -> dict[str, Any]:
  """Checks that a JSON value is an object with certain fields among others.

  Integers must be in [0, 2^31): they are steps, sizes and indices.

  Raises:
    ConfigError: if it is not; the message names the place and the field.
  """
  if not isinstance(values, dict):
    raise ConfigError(f"{where} must be an object, got {shown(values)}")
  for name, kind in kinds.items():
    if name not in values:
      raise ConfigError(f"{where} must have {name}")
    value = values[name]
    if not _is_of(value, kind):
      raise ConfigError(
        f"{where}: {name} must be {_described(kind)}, got {shown(value)}"
      )
    if kind is int and not 0 <= value < 2**31:
      raise ConfigError(
        f"{where}: {name} must be in [0, 2^31), got {shown(value)}"
      )
  return values


def _is_of(value: Any, kind: Kind) -> bool:
  """Isinstance for JSON, in which true is not an integer."""
  return isinstance(value, kind) and (
    kind is bool or not isinstance(value, bool)
  )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  values = dict(pairs)
  if len(values) < len(pairs):
    raise ValueError("a name occurs twice in an object")
  return values


def _no_constant(name: str) -> None:
  raise ValueError(f"{name} is not a JSON number")


def _described(kind: Kind) -> str:
  kinds = kind if isinstance(kind, tuple) else (kind,)
  return " or ".join(_DESCRIPTIONS[each] for each in kinds)


_DESCRIPTIONS = {
  int: "a whole number",
  float: "a number",
  bool: "true or false",
  str: "text",
  dict: "an object",
  list: "a list",
  type(None): "null",
}
