"""The command line of a sweep: its seeds, and the settings that it varies."""

import argparse
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from induction_jax.commands import command_line
from induction_jax.config import (
  Config,
  ConfigError,
  change,
  parse_leaves,
  to_dict,
)
from induction_jax.run.seeds import MAPPINGS

LAST_SEED = 2**32 - 1


class Setting(NamedTuple):
  """One combination of the values that a sweep varies.

  Attributes:
    name: of its directory; empty where nothing is varied.
    config: with these values.
    values: by name of the setting.
  """

  name: str
  config: Config
  values: dict[str, Any]


def parse(argv: list[str], doc: str | None) -> argparse.Namespace:
  """Reads the command line of a sweep.

  Raises:
    ConfigError: for anything wrong with it.
  """
  parser = command_line.make_parser(
    "sweep", "--config FILE --seeds N --workdir DIR", doc
  )
  command_line.add_config_flag(parser)
  parser.add_argument(
    "--workdir", metavar="DIR", help="Directory of the sweep (required)."
  )
  parser.add_argument(
    "--seeds", type=int, metavar="N", help="Number of seeds (required)."
  )
  parser.add_argument(
    "--first-seed",
    type=int,
    default=0,
    metavar="N",
    help="The first seed. Default 0.",
  )
  parser.add_argument(
    "--over",
    action="append",
    default=[],
    metavar="SECTION.LEAF=A,B",
    help="Run every seed with each of these values of a setting. Give it again "
    "for a grid of settings.",
  )
  parser.add_argument(
    "--group",
    type=int,
    metavar="N",
    help="Seeds trained at once; must divide --seeds. Default: as many as fit "
    "--memory-gib.",
  )
  parser.add_argument(
    "--memory-gib",
    type=float,
    default=4.0,
    metavar="GIB",
    help="Memory for the seeds of a group on each device. Default 4.",
  )
  parser.add_argument(
    "--mapping",
    choices=MAPPINGS,
    help="map trains the seeds of a group one after another, vmap as a batch. "
    "Default: map on a CPU, vmap elsewhere.",
  )
  command_line.add_process_flags(parser)
  values = command_line.parse(parser, argv)
  _check(values)
  return values


def _check(values: argparse.Namespace) -> None:
  if not values.workdir:
    raise ConfigError("--workdir is required, such as runs/quick_64")
  if values.seeds is None:
    raise ConfigError("--seeds is required, such as 64")
  if values.seeds < 1:
    raise ConfigError(f"--seeds must be at least 1, got {values.seeds}")
  last = values.first_seed + values.seeds - 1
  if values.first_seed < 0 or last > LAST_SEED:
    raise ConfigError(
      f"seeds must be in [0, 2^32), got {values.first_seed} to {last}"
    )
  group = values.group
  if group is not None and (group < 1 or values.seeds % group):
    raise ConfigError(
      f"--group must divide --seeds, got group={group}, seeds={values.seeds}"
    )
  if not values.memory_gib > 0:
    raise ConfigError(f"--memory-gib must be positive, got {values.memory_gib}")
  if "seed" in values.settings:
    raise ConfigError("a sweep's seeds are --first-seed and --seeds")


def make_grid(
  config: Config, over: Sequence[str], given: Sequence[str]
) -> list[Setting]:
  """Every combination of values, the last setting changing fastest.

  Args:
    config: the config whose settings are changed.
    over: arguments of --over; without any, the config alone is returned.
    given: settings that --config.SECTION.LEAF sets, which --over must not.

  Raises:
    ConfigError: if an argument cannot be read, or a combination cannot be run.
  """
  listed: dict[str, list[Any]] = {}
  for argument in over:
    name, values = _read(argument)
    if name in given:
      raise ConfigError(f"{name} is given both by --over and --config.{name}")
    if name in listed:
      raise ConfigError(f"--over {name} is given twice")
    listed[name] = values
  return [
    _setting(config, dict(zip(listed, values)))
    for values in itertools.product(*listed.values())
  ]


def _read(argument: str) -> tuple[str, list[Any]]:
  """The name of a setting and its values."""
  name, _, listed = argument.partition("=")
  if not listed:
    raise ConfigError(f"--over must be section.leaf=a,b, got {argument!r}")
  if name == "seed":
    raise ConfigError("a sweep's seeds are --first-seed and --seeds")
  values = [parse_leaves({name: text})[name] for text in listed.split(",")]
  if len(set(values)) < len(values):
    raise ConfigError(f"--over {name} has a value twice, got {listed}")
  return name, values


def _setting(config: Config, values: Mapping[str, Any]) -> Setting:
  name = ",".join(f"{leaf}={value}" for leaf, value in values.items())
  # A value may hold a slash, which the name of a directory cannot.
  return Setting(
    name.replace("/", "-"), change(to_dict(config), values), dict(values)
  )
