"""Command lines: arguments, their mistakes, and what ends a command."""

import argparse
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from induction_jax.commands.mistakes import Parser, inside_run, unexpected
from induction_jax.config import (
  Config,
  ConfigError,
  change,
  check_leaf_name,
  config_names,
  leaves,
  load_config,
  parse_leaves,
)
from induction_jax.config.describe import describe
from induction_jax.devices import processes

FILE_ERROR = 1
USAGE_ERROR = 2
STATUSES = """exit status:
  0    the command is complete
  1    a file cannot be read or written, memory is short, or numbers are
       not finite{failure}
  2    the command line, the config or a file of the run must be changed
  130  stopped by Ctrl-C (SIGINT)
  143  stopped by SIGTERM"""
# Earlier names of flags, which keep working.
RENAMED = {"probes": "measurements", "no-resume": "noresume"}
BY_HAND = ("coordinator", "num-processes", "process-id")
# JAX keeps compiled programs that took a second or more; most programs of a
# run take less, but there are many.
LEAST_COMPILE_SECONDS = 0.1
_DEFAULT_FORMAT = warnings.formatwarning


def make_parser(
  command: str, argument: str, doc: str | None, failure: str = ""
) -> Parser:
  """A parser for `python -m induction_jax.<command>`.

  Args:
    command: its name.
    argument: what it needs at least, for the line of usage.
    doc: the module's docstring: what the command does, and examples.
    failure: another reason for exit status 1, such as ", or it differs".
  """
  prog = f"python -m induction_jax.{command}"
  return Parser(
    prog=prog,
    usage=f"{prog} {argument} [flags]",
    description=doc,
    epilog=STATUSES.format(failure=failure),
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )


def add_run_argument(parser: Parser) -> None:
  """Adds the run directory of a command that reads one."""
  # Optional for argparse, so that `parse` can say what was probably meant.
  parser.add_argument(
    "run", nargs="?", metavar="RUN", help="Run directory, such as runs/a."
  )


def add_config_flag(parser: Parser) -> None:
  """Adds --config, --config.SECTION.LEAF and --describe."""
  parser.add_argument(
    "--config",
    action="append",
    metavar="FILE",
    help=f"Config file, or one of {', '.join(config_names())}.",
  )
  add_setting_flags(parser)
  parser.add_argument(
    "--describe",
    action="store_true",
    help="Print every setting with its value in this config, its default, the "
    "values it allows and its meaning, and exit.",
  )


def add_setting_flags(parser: argparse._ActionsContainer) -> None:
  """Adds --config.SECTION.LEAF, a flag for every setting."""
  parser.add_argument(
    "--config.SECTION.LEAF",
    dest="settings",
    metavar="VALUE",
    help="Change one setting of the config.",
  )
  parser.set_defaults(settings={})
  for name in leaves():
    parser.add_argument(
      f"--config.{name}",
      action=_Setting,
      default=argparse.SUPPRESS,
      help=argparse.SUPPRESS,
    )


class _Setting(argparse.Action):
  """Collects `--config.section.leaf=VALUE` in `settings`, as text."""

  def __call__(
    self,
    parser: argparse.ArgumentParser,
    namespace: argparse.Namespace,
    values: Any,
    option_string: str | None = None,
  ) -> None:
    del parser, option_string
    name = self.dest.removeprefix("config.")
    namespace.settings = {**namespace.settings, name: values}


def add_process_flags(parser: Parser) -> None:
  """Adds --distributed, and what it needs where jax cannot find it out."""
  group = parser.add_argument_group(
    "several processes",
    "With --distributed alone, jax finds the processes through SLURM, Open MPI "
    "or\na TPU pod. Elsewhere give the other flags too.",
  )
  group.add_argument(
    "--distributed",
    action="store_true",
    help="This is one of several processes that make up the run.",
  )
  group.add_argument(
    "--coordinator", metavar="HOST:PORT", help="Address of the first process."
  )
  group.add_argument(
    "--num-processes", type=int, metavar="N", help="Number of processes."
  )
  group.add_argument(
    "--process-id", type=int, metavar="I", help="Number of this one, from 0."
  )


def parse(parser: Parser, argv: Sequence[str]) -> argparse.Namespace:
  """Parses a command line; --help and --describe print and exit.

  Raises:
    ConfigError: for anything wrong with the command line, with what was
      probably meant.
  """
  arguments = [_normalise(argument) for argument in argv[1:]]
  if {"--help", "-h"}.intersection(arguments):
    parser.print_help()
    sys.exit(0)
  for argument in arguments:
    if argument.startswith("--config."):
      check_leaf_name(argument.removeprefix("--config.").split("=")[0])
  values, extra = parser.parse_known_args(arguments)
  if extra:
    raise ConfigError(unexpected(parser, extra[0], values))
  if getattr(values, "describe", False):
    print(describe(config_from(values)))
    sys.exit(0)
  return values


def run_directory(parser: Parser, values: argparse.Namespace) -> Path:
  """The path of the run that a command is for.

  Raises:
    ConfigError: if there is none, or it is of something inside a run; the
      message says how to name the run.
  """
  if values.run is None:
    raise ConfigError(f"a run directory is required: {parser.prog} runs/a")
  path = Path(values.run)
  if hint := inside_run(parser, path):
    raise ConfigError(hint)
  return path


def _normalise(argument: str) -> str:
  """Spells a flag as parsers know it: --first-seed, not -first_seed.

  A setting that is true or false needs no value: --config.spectra.exact is
  --config.spectra.exact=true, and --noconfig.spectra.exact is =false.
  """
  if not re.match("--?[A-Za-z]{2}", argument):
    return argument
  name, equals, value = argument.lstrip("-").partition("=")
  leaf = name.removeprefix("no").removeprefix("config.")
  if name.startswith(("config.", "noconfig.")):
    if not equals and leaf in leaves() and leaves()[leaf].kind is bool:
      return f"--config.{leaf}={str(name.startswith('config.')).lower()}"
    return f"--{name}{equals}{value}"
  name = name.replace("_", "-")
  return f"--{RENAMED.get(name, name)}{equals}{value}"


def split(listed: str) -> list[str]:
  """Splits a list at its commas."""
  return [part.strip() for part in listed.split(",") if part.strip()]


def config_from(values: argparse.Namespace) -> Config:
  """The checked config of a parsed command line.

  Raises:
    ConfigError: if there is none, or it cannot be run.
  """
  if not values.config:
    raise ConfigError("--config is required, such as --config quick")
  if len(values.config) > 1:
    raise ConfigError(
      f"--config is given {len(values.config)} times "
      f"({', '.join(values.config)}): give one file, and change its settings "
      "by --config.SECTION.LEAF=VALUE"
    )
  settings = parse_leaves(values.settings)
  return change(load_config(values.config[0]).to_dict(), settings)


def join_processes(values: argparse.Namespace) -> None:
  """Connects to the other processes of a run if --distributed is given.

  It must come before jax is used. From then on only the first process prints.

  Raises:
    ConfigError: if the others cannot be found, or flags are missing.
  """
  by_hand = [getattr(values, name.replace("-", "_")) for name in BY_HAND]
  missing = [f"--{x}" for x, value in zip(BY_HAND, by_hand) if value is None]
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
    processes.connect(*by_hand)
  except (RuntimeError, ValueError, IndexError) as error:
    raise ConfigError(f"--distributed: {one_line(error)}") from error
  if not processes.is_first():
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run_main(main: Callable[[list[str]], int]) -> None:
  """Runs a command and exits with its status, as STATUSES lists them.

  An error that the user can mend is one line on standard error.
  """
  keep_compiled()
  warnings.formatwarning = _format_warning
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
    # sys.exit would wait for the other processes, which wait for this one.
    os._exit(status)
  sys.exit(status)


def keep_compiled() -> None:
  """Keeps compiled programs on disk, so that the next run starts sooner.

  They are kept in $XDG_CACHE_HOME/induction_jax (~/.cache by default), unless
  JAX_COMPILATION_CACHE_DIR names another directory or
  JAX_ENABLE_COMPILATION_CACHE=false turns the cache off. Where the directory
  cannot be written, nothing is kept.
  """
  chosen = jax.config.values["jax_compilation_cache_dir"]
  if chosen or not jax.config.values["jax_enable_compilation_cache"]:
    return
  try:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    directory = Path(home) / "induction_jax"
    directory.mkdir(parents=True, exist_ok=True)
  except (OSError, RuntimeError):  # RuntimeError: there is no home directory
    return
  if os.access(directory, os.W_OK | os.X_OK):
    jax.config.update("jax_compilation_cache_dir", str(directory))
    seconds = "jax_persistent_cache_min_compile_time_secs"
    jax.config.update(seconds, LEAST_COMPILE_SECONDS)


def one_line(error: BaseException) -> str:
  """An error's message; if it quotes a traceback, only its last line."""
  text = str(error).strip()
  if "Traceback (most recent call last)" in text:
    text = text.splitlines()[-1]
  return " ".join(text.split())


def _format_warning(
  message: Warning | str,
  category: type[Warning],
  filename: str,
  lineno: int,
  line: str | None = None,
) -> str:
  """The package's own warnings, which are for users, as one line."""
  if category is not UserWarning:
    return _DEFAULT_FORMAT(message, category, filename, lineno, line)
  return f"warning: {_printable(str(message))}\n"


def _printable(reason: str) -> str:
  """One line without the control characters that a file may hold."""
  line = " ".join(reason.split())
  return "".join(
    x if x.isprintable() else "\N{REPLACEMENT CHARACTER}" for x in line
  )
