"""Reading what somebody else may have written: a run's files and their JSON.

Nothing in a run directory is executed. Its files are text, JSON and arrays,
read whole or refused in one line; a link in it leads nowhere outside.
"""

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from induction_jax.config import ConfigError, shown
from induction_jax.devices.limits import check_fits

# What takes most is an empty list, 64 bytes for three characters.
PARSED = 25  # bytes for each byte of text


def check_tree(root: Path) -> None:
  """Checks that everything in a directory is of it.

  The directory itself may be a link; a link in it may point into it.

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
  """Checks that a path, all links in it followed, is below a directory.

  Raises:
    ConfigError: if it is not.
  """
  if "\0" in str(path):
    raise ConfigError(f"{shown(str(path))} is no path")
  target, inside = os.path.realpath(path), os.path.realpath(root)
  if os.path.commonpath([target, inside]) != inside:
    raise ConfigError(f"{path} leads outside {root}, to {target}")


def read_text(path: Path) -> str:
  """Reads a UTF-8 file whose contents will be parsed.

  Raises:
    OSError: if there is no such file, or it cannot be read.
    ConfigError: if it is no regular file, not UTF-8, or too long to be parsed
      within the memory that limits.py allows.
  """
  found = path.stat()
  if not stat.S_ISREG(found.st_mode):  # a pipe would be waited for
    raise ConfigError(f"{path} is not a file")
  check_fits(f"{path}, parsed,", PARSED * found.st_size)
  try:
    return path.read_text(encoding="utf-8")
  except UnicodeDecodeError as error:
    raise ConfigError(f"{path} is not UTF-8 text: {error}") from error


def parse_json(text: str, where: str) -> Any:
  """Parses JSON, strictly: no NaN, no infinity, no name twice.

  Args:
    text: to be parsed.
    where: it is from, for the message.

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
  """Reads JSON.

  Raises:
    OSError: if there is no such file, or it cannot be read.
    ConfigError: if the file is not JSON.
  """
  return parse_json(read_text(path), str(path))


def read_object(path: Path, **kinds: type | tuple[type, ...]) -> dict[str, Any]:
  """Reads a JSON object whose fields are known.

  Args:
    path: of the file.
    **kinds: the type of every field that must be there.

  Raises:
    OSError: if there is no such file, or it cannot be read.
    ConfigError: if it is no such object.
  """
  return check_fields(read_json(path), str(path), kinds)


def check_fields(
  values: Any, where: str, kinds: Mapping[str, type | tuple[type, ...]]
) -> dict[str, Any]:
  """Checks that JSON is an object with certain fields, perhaps among others.

  Whole numbers must be in [0, 2^31): they are steps, sizes and places.

  Raises:
    ConfigError: if it is not; it says where, which field and what it got.
  """
  if not isinstance(values, dict):
    raise ConfigError(f"{where} must be an object, got {shown(values)}")
  for name, kind in kinds.items():
    if name not in values:
      raise ConfigError(f"{where} must have {name}")
    value = values[name]
    if not _is_of(value, kind):
      raise ConfigError(
        f"{where}: {name} must be {_named(kind)}, got {shown(value)}"
      )
    if kind is int and not 0 <= value < 2**31:
      raise ConfigError(
        f"{where}: {name} must be in [0, 2^31), got {shown(value)}"
      )
  return values


def _is_of(value: Any, kind: type | tuple[type, ...]) -> bool:
  """Whether it is; to Python, but not to JSON, true is a whole number."""
  return isinstance(value, kind) and (
    kind is bool or not isinstance(value, bool)
  )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  values = dict(pairs)
  if len(values) < len(pairs):
    raise ValueError("a name is there twice")
  return values


def _no_constant(name: str) -> None:
  raise ValueError(f"{name} is no number of JSON")


def _named(kind: type | tuple[type, ...]) -> str:
  kinds = kind if isinstance(kind, tuple) else (kind,)
  return " or ".join(_NAMES[each] for each in kinds)


_NAMES = {
  int: "a whole number",
  float: "a number",
  bool: "true or false",
  str: "text",
  dict: "an object",
  list: "a list",
  type(None): "null",
}
