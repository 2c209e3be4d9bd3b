"""Command lines: flags and configs, with one clear line for each mistake."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
from absl import flags
from ml_collections import ConfigDict, config_flags

from induction_jax.config import (
  Config,
  ConfigError,
  check_leaf_name,
  check_optim_leaf,
  make_config,
)
from induction_jax.devices import processes

FILE_ERROR = 1
USAGE_ERROR = 2
BY_HAND = ("coordinator", "num_processes", "process_id")
# Of a program that is kept on disk; most of a run's take less than JAX's own
# limit of a second, and many such make a slow start.
LEAST_COMPILE_SECONDS = 0.1


def add_config_flag(values: flags.FlagValues, argv: list[str]) -> None:
  """Adds --config FILE and --config.<section>.<leaf>=VALUE."""
  config_flags.DEFINE_config_file(
    "config",
    None,
    "Python file whose get_config() returns the run's config.",
    flag_values=values,
    sys_argv=argv,
  )


def add_process_flags(values: flags.FlagValues) -> None:
  """Adds --distributed, and what it takes where jax cannot find it out."""
  flags.DEFINE_boolean(
    "distributed",
    False,
    "This is one of several processes that make up the run (of SLURM, Open "
    "MPI or a TPU pod; else with the three flags that follow).",
    flag_values=values,
  )
  flags.DEFINE_string(
    "coordinator",
    None,
    "host:port at which the first process is to be found.",
    flag_values=values,
  )
  for name, what in (
    ("num_processes", "How many processes there are."),
    ("process_id", "Which of them this is, from 0."),
  ):
    flags.DEFINE_integer(name, None, what, flag_values=values)


def join_processes(values: flags.FlagValues) -> None:
  """Joins the others if --distributed says so; call it before all of jax.

  Only the first process prints from there on.

  Raises:
    ConfigError: if they cannot be found, or flags are missing.
  """
  by_hand = {name: values[name].value for name in BY_HAND}
  missing = [f"--{name}" for name, value in by_hand.items() if value is None]
  if not values.distributed:
    if len(missing) < len(BY_HAND):
      raise ConfigError(f"--{', --'.join(BY_HAND)} need --distributed")
    return
  if 0 < len(missing) < len(BY_HAND):
    raise ConfigError(
      f"--{', --'.join(BY_HAND)} go together, or none of them where jax finds "
      f"them out: {', '.join(missing)} missing"
    )
  try:
    processes.connect(*by_hand.values())
  except (RuntimeError, ValueError, IndexError) as error:
    raise ConfigError(f"--distributed: {one_line(error)}") from error
  if not processes.is_first():
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def parse(values: flags.FlagValues, argv: list[str], usage: str) -> list[str]:
  """Parses a command line; returns its positional arguments.

  Prints `usage` and the flags and exits for --help.

  Raises:
    ConfigError: for anything wrong with the command line or the config file.
  """
  if {"--help", "-h"} & set(argv):
    print(f"{usage.strip()}\n\nflags:\n{values.get_help()}")
    sys.exit(0)
  check_names(argv)
  try:
    with _importable_from(_config_path(argv)):
      return values(argv)[1:]
  except flags.Error as error:
    raise ConfigError(one_line(error)) from error


def config_from(values: flags.FlagValues, argv: list[str]) -> Config:
  """The checked config of a parsed command line.

  Raises:
    ConfigError: if there is none or it cannot be run.
  """
  found = values["config"].value
  if not values["config"].present:
    raise ConfigError("--config is required, such as configs/quick.py")
  if not isinstance(found, ConfigDict):
    raise ConfigError(
      f"--config: get_config() must return a ConfigDict, got {found!r}"
    )
  config = make_config(found.to_dict())
  for name in overridden(argv):
    check_optim_leaf(name, config)
  return config


def run_main(main: Callable[[list[str]], int]) -> None:
  """Runs an entry point; what the user can mend is one line on stderr.

  The exit status is 2 for a command line or config that cannot be run, 1 for
  a file that cannot be read or written, or numbers that do not stay finite, 130
  for Ctrl-C.
  """
  keep_compiled()
  try:
    sys.exit(main(sys.argv))
  except ConfigError as error:
    status, reason = USAGE_ERROR, str(error)
  except (OSError, FloatingPointError) as error:
    status, reason = FILE_ERROR, str(error)
  except MemoryError as error:
    status, reason = FILE_ERROR, f"not enough memory: {error}"
  except KeyboardInterrupt:
    status, reason = 128 + signal.SIGINT, "interrupted"
  print(f"error: {_printable(reason)}", file=sys.stderr, flush=True)
  if processes.is_connected():
    os._exit(status)  # an exit would wait for the others, who wait for this one
  sys.exit(status)


def keep_compiled() -> None:
  """Keeps compiled programs on disk, so that the next run starts at once.

  In $XDG_CACHE_HOME/induction_jax (~/.cache by default), unless the user has
  told JAX where by JAX_COMPILATION_CACHE_DIR, or not to by
  JAX_ENABLE_COMPILATION_CACHE=false. Where nothing can be written programs are
  compiled anew.
  """
  chosen = jax.config.values["jax_compilation_cache_dir"]
  if chosen or not jax.config.values["jax_enable_compilation_cache"]:
    return
  try:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    directory = Path(home) / "induction_jax"
    directory.mkdir(parents=True, exist_ok=True)
  except (OSError, RuntimeError):  # the latter where there is no home
    return
  if os.access(directory, os.W_OK | os.X_OK):
    jax.config.update("jax_compilation_cache_dir", str(directory))
    seconds = "jax_persistent_cache_min_compile_time_secs"
    jax.config.update(seconds, LEAST_COMPILE_SECONDS)


def check_names(argv: list[str]) -> None:
  """Raises ConfigError for a config leaf on the command line that is none."""
  for name in overridden(argv):
    check_leaf_name(name)


def one_line(error: BaseException) -> str:
  """An error's message; of a traceback quoted in it, the last line alone."""
  text = str(error).strip()
  if "Traceback (most recent call last)" in text:
    text = text.splitlines()[-1]
  return " ".join(text.split())


def _printable(reason: str) -> str:
  """One line, whatever a file that is quoted in it would do to a terminal."""
  line = " ".join(reason.split())
  return "".join(
    x if x.isprintable() else "\N{REPLACEMENT CHARACTER}" for x in line
  )


def overridden(argv: list[str]) -> list[str]:
  """The config leaves that a command line sets."""
  names = (argument.lstrip("-") for argument in argv if argument[:1] == "-")
  return [
    name.removeprefix("config.").split("=")[0]
    for name in names
    if name.startswith("config.")
  ]


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
    what = "not a file" if config.exists() else "no such file"
    raise ConfigError(f"--config {config}: {what}")
  sys.path.insert(0, str(config.resolve().parent.parent))
  try:
    yield
  except flags.Error:
    raise
  except (Exception, SystemExit) as error:  # whatever the user's Python does
    reason = f"{type(error).__name__}: {one_line(error)}"
    if isinstance(error, AttributeError) and "get_config" in reason:
      reason = "it defines no get_config()"
    raise ConfigError(f"--config {config} failed: {reason}") from error
  finally:
    del sys.path[0]
