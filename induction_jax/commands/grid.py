"""A grid of settings of a config, read from a command line."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from induction_jax.config import (
  Config,
  ConfigError,
  check_leaf_name,
  check_optim_leaf,
  make_config,
  to_dict,
)

_BOOLEANS = {"true": True, "false": False}


class Setting(NamedTuple):
  """One point of a grid; its name is that of its directory."""

  name: str
  config: Config
  values: dict[str, Any]  # by leaf


def make_grid(
  config: Config, over: Sequence[str], given: Sequence[str]
) -> list[Setting]:
  """Every combination of values, in order, the last leaf changing fastest.

  Args:
    config: that the others differ from.
    over: each `section.leaf=a,b`; none gives the config alone, without a name.
    given: leaves that are set otherwise, which none of these may be.

  Raises:
    ConfigError: for anything in `over` that cannot be read or run.
  """
  leaves: dict[str, list[Any]] = {}
  for text in over:
    leaf, values = _read(config, text)
    if leaf in given:
      raise ConfigError(f"{leaf} is given both by --over and --config.{leaf}")
    if leaf in leaves:
      raise ConfigError(f"--over {leaf} is given twice")
    leaves[leaf] = values
  return [
    _setting(config, dict(zip(leaves, values)))
    for values in itertools.product(*leaves.values())
  ]


def _read(config: Config, text: str) -> tuple[str, list[Any]]:
  leaf, equals, listed = text.partition("=")
  if not equals or not listed:
    raise ConfigError(f"--over must be section.leaf=a,b, got {text!r}")
  check_leaf_name(leaf)
  if leaf == "seed":
    raise ConfigError("a sweep's seeds are --first-seed and --seeds")
  section, name = leaf.split(".")
  old = to_dict(config)[section][name]
  values = [_parse(leaf, type(old), value) for value in listed.split(",")]
  if len(set(values)) < len(values):
    raise ConfigError(f"--over {leaf} has a value twice, got {listed}")
  return leaf, values


def _parse(leaf: str, kind: type, text: str) -> Any:
  try:
    return _BOOLEANS[text.lower()] if kind is bool else kind(text)
  except (ValueError, KeyError) as error:
    raise ConfigError(
      f"--over {leaf} must be {kind.__name__}, got {text!r}"
    ) from error


def _setting(config: Config, values: Mapping[str, Any]) -> Setting:
  nested = to_dict(config)
  for leaf, value in values.items():
    section, name = leaf.split(".")
    nested[section][name] = value
  changed = make_config(nested)
  for leaf in values:
    check_optim_leaf(leaf, changed)
  name = ",".join(f"{leaf}={value}" for leaf, value in values.items())
  # A value may hold what a file's name cannot.
  return Setting(name.replace("/", "-"), changed, dict(values))
