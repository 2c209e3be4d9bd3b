"""The command line of a sweep."""

from collections.abc import Sequence

from absl import flags

from induction_jax.commands import command_line
from induction_jax.config import ConfigError
from induction_jax.run.seeds import MAPPINGS

LAST_SEED = 2**32 - 1


def parse(argv: list[str], usage: str) -> flags.FlagValues:
  """Reads the command line of a sweep.

  Raises:
    ConfigError: for anything wrong with it or with the config file.
  """
  values = flags.FlagValues()
  flags.DEFINE_string(
    "workdir", None, "Directory of the sweep.", flag_values=values
  )
  flags.DEFINE_integer("seeds", None, "How many seeds.", flag_values=values)
  flags.DEFINE_integer(
    "first_seed", 0, "The first of them.", flag_values=values
  )
  flags.DEFINE_multi_string(
    "over",
    [],
    "section.leaf=a,b: every seed with each value; again for a grid.",
    flag_values=values,
  )
  flags.DEFINE_integer(
    "group",
    None,
    "Seeds at once, which must divide --seeds; default: as many as fit.",
    flag_values=values,
  )
  flags.DEFINE_float(
    "memory_gib",
    4.0,
    "What the seeds of a group may take, each device.",
    flag_values=values,
  )
  flags.DEFINE_enum(
    "mapping",
    None,
    MAPPINGS,
    "One seed after another, or in batches; default: map on a CPU, else vmap.",
    flag_values=values,
  )
  command_line.add_process_flags(values)
  command_line.add_config_flag(values, argv)
  # As a person would write them: --first-seed is --first_seed.
  names = ("first-seed", "memory-gib")
  known = [_underscored(argument, names) for argument in argv]
  if extra := command_line.parse(values, known, usage):
    raise ConfigError(f"unexpected argument {extra[0]!r}")
  _check(values, argv)
  return values


def _underscored(argument: str, names: Sequence[str]) -> str:
  name, equals, value = argument.partition("=")
  if name.lstrip("-") in names:
    return name[:2] + name[2:].replace("-", "_") + equals + value
  return argument


def _check(values: flags.FlagValues, argv: list[str]) -> None:
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
  if values.memory_gib <= 0:
    raise ConfigError(f"--memory-gib must be positive, got {values.memory_gib}")
  if "seed" in command_line.overridden(argv):
    raise ConfigError("a sweep's seeds are --first-seed and --seeds")
