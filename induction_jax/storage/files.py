"""Files that are there whole or not at all, whatever happens meanwhile."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
  """Gives a path to write to; what was written then takes the file's place.

  Both the bytes and the new name are on disk on return. On an error, or if the
  process is killed, the file stays what it was.
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
  """Writes a file whole, then renames it into place."""
  with replacing(path) as partial:
    partial.write_text(text, encoding="utf-8")


def force_to_disk(path: Path) -> None:
  """Forces a file's bytes, or a directory's names, to disk."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)
