"""Config files: finding them by path or by name, and running them."""

import contextlib
import difflib
import runpy
import sys
import types
from collections.abc import Iterator
from pathlib import Path

from ml_collections import ConfigDict

from induction_jax.config.leaves import ConfigError

PACKAGE = Path(__file__).parents[1]


def config_folder() -> Path:
  """The folder of this project's configs.

  It is inside the package where that is installed, and beside it in a
  checkout.
  """
  inside = PACKAGE / "configs"
  return inside if inside.is_dir() else PACKAGE.parent / "configs"


def config_names() -> list[str]:
  """Names of this project's configs."""
  return sorted(path.stem for path in config_folder().glob("[a-z]*.py"))


def find_config_file(source: str) -> Path:
  """The file that `--config` means: a path, or the name of a config.

  `quick` is this project's config of that name. So is `configs/quick.py` where
  there is no such file.

  Raises:
    ConfigError: if there is no such file or config.
  """
  path, names = Path(source), config_names()
  named = path.stem if source in (path.stem, f"configs/{path.name}") else None
  ours = config_folder() / f"{named}.py"
  if source in names or (named in names and not path.exists()):
    return ours
  if path.is_file():
    return path
  if path.exists():
    raise ConfigError(f"--config {source}: not a file")
  close = difflib.get_close_matches(path.stem, names, n=1)
  raise ConfigError(
    f"--config {source}: no such file, and no config of that name"
    + (f"; did you mean {close[0]}?" if close else "")
    + f" (there are {', '.join(names)})"
  )


def load_config(source: str | Path) -> ConfigDict:
  """Runs a config file and returns what its get_config() returns.

  Args:
    source: a path, or the name of one of this project's configs.

  Raises:
    ConfigError: if there is no such file, or it fails.
  """
  path = find_config_file(str(source))
  try:
    with _configs_importable(path.resolve().parent):
      get_config = runpy.run_path(str(path)).get("get_config")
      config = get_config() if get_config else None
  except (Exception, SystemExit) as error:  # whatever the file does
    reason = " ".join(str(error).split())
    raise ConfigError(
      f"--config {source} failed: {type(error).__name__}: {reason}"
    ) from error
  if get_config is None:
    raise ConfigError(f"--config {source} failed: it defines no get_config()")
  if not isinstance(config, ConfigDict):
    raise ConfigError(
      f"--config {source}: get_config() must return a ConfigDict, got "
      f"{config!r}"
    )
  return config


@contextlib.contextmanager
def _configs_importable(folder: Path) -> Iterator[None]:
  """Makes `from configs import base` find this project's configs.

  A config file may be anywhere, and so may other modules named `configs`. The
  file's own folder is searched too: first if it is itself named configs.
  """
  package = types.ModuleType("configs")
  package.__path__ = [str(config_folder()), str(folder)]
  if folder.name == "configs":
    package.__path__.reverse()
  before = _pop_configs()
  sys.modules["configs"] = package
  try:
    yield
  finally:
    _pop_configs()
    sys.modules.update(before)


def _pop_configs() -> dict[str, types.ModuleType]:
  names = [x for x in sys.modules if x.split(".")[0] == "configs"]
  return {name: sys.modules.pop(name) for name in names}
