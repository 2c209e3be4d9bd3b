"""Only one process at a time may write to a run directory."""

import errno
import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from induction_jax.config import ConfigError

NAME = "lock"
# Errors of file systems that have no locks.
UNSUPPORTED = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


class InUseError(ConfigError):
  """The directory is in use by another process."""


@contextmanager
def hold(root: Path) -> Iterator[None]:
  """Holds the lock of a directory for the duration of a `with` block.

  It is a kernel lock on the open file `lock` and is released when the process
  ends, however it ends. The file stays, and names the process that last held
  the lock.

  Raises:
    InUseError: if another process holds the lock.
    ConfigError: if `lock` is a link: its target would be overwritten.
    OSError: if the directory cannot be written.
  """
  descriptor = _open(root / NAME)
  try:
    _lock(descriptor, root)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    yield
  finally:
    os.close(descriptor)


def _open(path: Path) -> int:
  try:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
  except OSError as error:
    if error.errno != errno.ELOOP:
      raise
    raise ConfigError(f"{path} must be a file, got a link") from error


def _lock(descriptor: int, root: Path) -> None:
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError as error:
    holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
    raise InUseError(
      f"{root} is in use by another process ({holder or 'which is starting'}); "
      "wait for it, or choose another directory"
    ) from error
  except OSError as error:
    if error.errno not in UNSUPPORTED:
      raise
    print(
      f"warning: {root}: its file system has no locks; nothing keeps a second "
      "process out",
      file=sys.stderr,
    )
