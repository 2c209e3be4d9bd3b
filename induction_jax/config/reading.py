"""Configs from nested mappings, stored runs and command lines."""

import dataclasses
import difflib
import functools
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, get_type_hints

from induction_jax.config.leaves import (
  ConfigError,
  check_leaf,
  did_you_mean,
  parse_leaf,
  shown,
)
from induction_jax.config.sections import Config
from induction_jax.config.training import OPTIM_LEAVES, ModelConfig

# Of a stored config. A setting that is added gets a default that means what
# runs did before it, so that their configs, which lack it, stay readable.
VERSION = 2


class Retired(NamedTuple):
  """A setting that was removed.

  Attributes:
    value: where a stored config has this value, the setting is ignored.
    reason: why it was removed, for those who set it.
  """

  value: Any
  reason: str


RETIRED = {
  "spectra.warm_start": Retired(
    False,
    "starting Lanczos at the last eigenvectors saved at most a tenth of the "
    "products",
  ),
}


class Leaf(NamedTuple):
  """A setting as `section.name`, or `seed`, with its declaration."""

  name: str
  kind: type
  field: dataclasses.Field


@functools.cache
def leaves() -> dict[str, Leaf]:
  """All settings by name, in the order of their declaration."""
  return {leaf.name: leaf for leaf in _leaves(Config, "")}


def _leaves(section: Any, prefix: str) -> Iterator[Leaf]:
  kinds = get_type_hints(section)
  for field in dataclasses.fields(section):
    name, kind = prefix + field.name, kinds[field.name]
    if dataclasses.is_dataclass(kind):
      yield from _leaves(kind, name + ".")
    else:
      yield Leaf(name, kind, field)


def make_config(values: Mapping[str, Any]) -> Config:
  """Builds a checked Config from nested mappings, such as a ConfigDict's.

  A missing setting or section takes its default.

  Raises:
    ConfigError: for an unknown name, a wrong type or a value that is not
      allowed; the message names the setting, the rule and the value.
  """
  return _make_section(Config, values, prefix="")


def make_model_config(**values: Any) -> ModelConfig:
  """Builds a checked `model` section, for weights that no run has trained."""
  section: ModelConfig = _make_section(ModelConfig, values, prefix="model.")
  return section


def _make_section(section: Any, values: Any, prefix: str) -> Any:
  if not isinstance(values, Mapping):
    raise ConfigError(f"{prefix[:-1]} must be a section, got {shown(values)}")
  kinds = get_type_hints(section)
  for name in values:
    if name not in kinds:
      known = [prefix + known_name for known_name in kinds]
      raise ConfigError(_unknown(prefix + str(name)[:80], known))
  checked = {}
  for field in dataclasses.fields(section):
    if field.name in values:
      name, kind = prefix + field.name, kinds[field.name]
      checked[field.name] = (
        _make_section(kind, values[field.name], name + ".")
        if dataclasses.is_dataclass(kind)
        else check_leaf(name, kind, field, values[field.name])
      )
  return section(**checked)


def to_dict(config: Config) -> dict[str, Any]:
  """The config as nested plain dicts."""
  return dataclasses.asdict(config)


def to_json(config: Config) -> dict[str, Any]:
  """The config as a run stores it: nested dicts and a version."""
  return {"version": VERSION, **to_dict(config)}


def read_config(values: Any, *, strict: bool) -> Config:
  """Builds a Config from what a run stored, perhaps in an earlier version.

  A missing setting takes its default, and a retired one is ignored at the
  value that changes nothing.

  Args:
    values: parsed JSON.
    strict: whether an unknown setting is an error, as for going on with a
      run. Otherwise it is ignored with a warning.

  Raises:
    ConfigError: as make_config, and for a config of a later version.
  """
  if not isinstance(values, Mapping):
    raise ConfigError(f"a config must be an object, got {shown(values)}")
  known = _copy(values)
  version = known.pop("version", 1)
  if version not in range(1, VERSION + 1):
    raise ConfigError(
      f"a stored config's version must be at most {VERSION}, got "
      f"{shown(version)}: this induction_jax is older than the run"
    )
  unknown = _drop_unknown(known)
  if unknown and strict:
    check_leaf_name(unknown[0])
  if unknown:
    warnings.warn(
      "config.json has settings that this version does not know, which are "
      f"ignored: {', '.join(unknown)}",
      stacklevel=2,
    )
  return make_config(known)


def _drop_unknown(values: dict[str, Any]) -> list[str]:
  """Removes retired and unknown settings; returns the names of the latter."""
  sections = get_type_hints(Config)
  unknown = []
  for name, value in list(values.items()):
    if name not in sections:
      del values[name]
      unknown.append(str(name)[:80])
    elif dataclasses.is_dataclass(sections[name]) and isinstance(value, dict):
      for leaf in value.keys() - get_type_hints(sections[name]).keys():
        retired, full_name = RETIRED.get(f"{name}.{leaf}"), f"{name}.{leaf}"
        if retired is None or value[leaf] != retired.value:
          unknown.append(full_name[:80])
        del value[leaf]
  return sorted(unknown)


def parse_leaves(texts: Mapping[str, str]) -> dict[str, Any]:
  """Reads the values of settings from a command line.

  Raises:
    ConfigError: for an unknown setting, or a value that is not of its type.
  """
  for name in texts:
    check_leaf_name(name)
  return {
    name: parse_leaf(name, leaves()[name].kind, value)
    for name, value in texts.items()
  }


def change(values: Mapping[str, Any], settings: Mapping[str, Any]) -> Config:
  """Builds a checked Config from nested mappings with some settings changed.

  Args:
    values: as for make_config.
    settings: values by name, such as {"model.n_layers": 4}.

  Raises:
    ConfigError: as make_config, and for a setting that the optimiser lacks.
  """
  nested = _copy(values)
  for name, value in settings.items():
    check_leaf_name(name)
    section, _, leaf = name.rpartition(".")
    inner = nested.setdefault(section, {}) if section else nested
    if isinstance(inner, dict):  # make_config refuses anything else
      inner[leaf] = value
  config = make_config(nested)
  for name in settings:
    check_optim_leaf(name, config)
  return config


def _copy(values: Mapping[str, Any]) -> dict[str, Any]:
  """A copy of a config's values that may be changed section by section."""
  return {
    name: dict(value) if isinstance(value, Mapping) else value
    for name, value in values.items()
  }


def check_leaf_name(name: str) -> None:
  """Raises ConfigError unless there is a setting `section.name`, or `seed`."""
  if name not in leaves():
    raise ConfigError(_unknown(name, list(leaves())))


def check_optim_leaf(name: str, config: Config) -> None:
  """Raises ConfigError for a setting that the config's optimiser lacks."""
  users = OPTIM_LEAVES.get(name, (config.optim.name,))
  if config.optim.name not in users:
    raise ConfigError(
      f"{name} is a setting of {' and '.join(users)}, and optim.name is "
      f"{config.optim.name}"
    )


def differing_leaves(a: Config, b: Config) -> list[str]:
  """Names of the settings in which two configs differ.

  Heads in lists of names may be written L1H3 or, as before version 2, 1.3.
  """
  return [
    name
    for name in leaves()
    if _with_head_names(value_of(a, name))
    != _with_head_names(value_of(b, name))
  ]


def value_of(config: Config, name: str) -> Any:
  """The value of the setting of that name."""
  return functools.reduce(getattr, name.split("."), config)


def _with_head_names(value: Any) -> Any:
  if not isinstance(value, str):
    return value
  return re.sub(r"(\d+|\*)\.(\d+|\*)", r"L\1H\2", value)


def _unknown(name: str, known: Sequence[str]) -> str:
  """The message for an unknown setting, which may lack its section."""
  if name in RETIRED:
    return f"{name} was removed: {RETIRED[name].reason}"
  if hint := did_you_mean(name, known):
    return f"unknown config key {name}{hint}"
  last = {full_name.split(".")[-1]: full_name for full_name in known}
  close = difflib.get_close_matches(name.split(".")[-1], last, n=1)
  hint = f"; did you mean {last[close[0]]}?" if close else ""
  return f"unknown config key {name}{hint}"
