"""Command lines: flags and configs, with one clear line for each mistake."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from induction_jax.config import (
  Config,
  ConfigError,
  check_leaf_name,
  make_config,
)

USAGE_ERROR = 2


def add_config_flag(values: flags.FlagValues, argv: list[str]) -> None:
  """Adds --config FILE and --config.<section>.<leaf>=VALUE."""
  config_flags.DEFINE_config_file(
    "config",
    None,
    "Python file whose get_config() returns the run's config.",
    flag_values=values,
    sys_argv=argv,
  )


def parse(values: flags.FlagValues, argv: list[str], usage: str) -> list[str]:
  """Parses a command line; returns its positional arguments.

  Prints `usage` and the flags and exits for --help.

  Raises:
    ConfigError: for anything wrong with the command line or the config file.
  """
  if {"--help", "-h"} & set(argv):
    print(f"{usage.strip()}\n\nflags:\n{values.get_help()}")
    sys.exit(0)
  for argument in argv:
    if argument.startswith("--config."):
      check_leaf_name(argument.removeprefix("--config.").split("=")[0])
  try:
    with _importable_from(_config_path(argv)):
      return values(argv)[1:]
  except flags.Error as error:
    raise ConfigError(" ".join(str(error).split())) from error


def config_from(values: flags.FlagValues) -> Config:
  """The checked config of a parsed command line.

  Raises:
    ConfigError: if there is none or it cannot be run.
  """
  if values["config"].value is None:
    raise ConfigError("--config is required, such as configs/quick.py")
  return make_config(values["config"].value.to_dict())


def run_main(main: Callable[[list[str]], int]) -> None:
  """Runs an entry point; a mistake of the user is one line and status 2."""
  try:
    sys.exit(main(sys.argv))
  except ConfigError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(USAGE_ERROR)


def _config_path(argv: list[str]) -> Path | None:
  for i, argument in enumerate(argv):
    if argument.startswith("--config="):
      return Path(argument.removeprefix("--config="))
    if argument == "--config" and i + 1 < len(argv):
      return Path(argv[i + 1])
  return None


@contextmanager
def _importable_from(config: Path | None) -> Iterator[None]:
  """Lets a config import its base as `from configs import base` from anywhere.

  Raises:
    ConfigError: if the file is missing or fails.
  """
  if config is None:
    yield
    return
  if not config.is_file():
    raise ConfigError(f"--config {config}: no such file")
  sys.path.insert(0, str(config.resolve().parent.parent))
  try:
    yield
  except flags.Error:
    raise
  except Exception as error:  # whatever the user's Python raises
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    raise ConfigError(f"--config {config} failed: {reason}") from error
  finally:
    del sys.path[0]
