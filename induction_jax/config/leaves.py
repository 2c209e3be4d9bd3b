"""One setting of a config: its default, the values it allows, its meaning.

A setting (a leaf) is a field of a frozen dataclass, declared as

  n_heads: int = at_least(1, default=8, doc="Attention heads in a layer.")

so that everything about it stands in one place.
"""

import dataclasses
import difflib
import math
import reprlib
from collections.abc import Callable, Sequence
from typing import Any

# Integers from here on do not convert to a float.
TOO_LARGE = 10**300


class ConfigError(ValueError):
  """A command line, config or file the user must change, in one line."""


class Choices(list[str]):
  """The allowed values of a setting; code may add to them."""

  def __str__(self) -> str:
    return f"one of {', '.join(self)}"


def leaf(
  allowed: str | Choices,
  accepts: Callable[[Any], bool],
  *,
  default: Any,
  doc: str,
  below: float = math.inf,
) -> Any:
  """Declares a setting.

  Args:
    allowed: the values it allows, in words.
    accepts: whether it allows a value of its type.
    default: the value where a config does not set it.
    doc: what it means.
    below: a limit for integers, which have a message of their own.
  """
  return dataclasses.field(
    default=default,
    metadata={
      "allowed": allowed,
      "accepts": accepts,
      "doc": doc,
      "below": below,
    },
  )


def one_of(*choices: str, default: str, doc: str) -> Any:
  allowed = Choices(choices)
  return leaf(allowed, lambda x: x in allowed, default=default, doc=doc)


def at_least(low: int, *, default: int, doc: str) -> Any:
  return leaf(
    f"at least {low}",
    lambda x: x >= low,
    default=default,
    doc=doc,
    below=2**31,
  )


def positive(*, default: float, doc: str) -> Any:
  return leaf(
    "a positive finite number",
    lambda x: 0 < x < math.inf,
    default=default,
    doc=doc,
  )


def non_negative(*, default: float, doc: str) -> Any:
  return leaf(
    "a non-negative finite number",
    lambda x: 0 <= x < math.inf,
    default=default,
    doc=doc,
  )


def fraction(*, default: float, doc: str) -> Any:
  return leaf("in [0, 1)", lambda x: 0 <= x < 1, default=default, doc=doc)


def boolean(*, default: bool, doc: str) -> Any:
  return leaf("true or false", lambda x: True, default=default, doc=doc)


def text(*, default: str, doc: str) -> Any:
  return leaf("text", lambda x: True, default=default, doc=doc)


def check_leaf(
  name: str, kind: type, field: dataclasses.Field, value: Any
) -> Any:
  """Returns the value of a setting, an integer as a float where one is due.

  Raises:
    ConfigError: if the value has another type or is not allowed.
  """
  is_int = isinstance(value, int) and not isinstance(value, bool)
  if kind is float and is_int:
    value = float(value) if abs(value) < TOO_LARGE else math.inf
  if not isinstance(value, kind) or (kind is int and not is_int):
    raise ConfigError(f"{name} must be {kind.__name__}, got {shown(value)}")
  if kind is int and value >= field.metadata["below"]:
    raise ConfigError(f"{name} must be below 2^31, got {shown(value)}")
  if not field.metadata["accepts"](value):
    raise ConfigError(
      f"{name} must be {field.metadata['allowed']}, got {shown(value)}"
    )
  return value


def parse_leaf(name: str, kind: type, value: str) -> Any:
  """Reads the value of a setting from a command line.

  Raises:
    ConfigError: if the text is not of the setting's type.
  """
  try:
    return _BOOLEANS[value.lower()] if kind is bool else kind(value)
  except (ValueError, KeyError) as error:
    raise ConfigError(
      f"{name}={value}: {name} must be {kind.__name__}, got {value!r}"
    ) from error


_BOOLEANS = {
  "true": True,
  "t": True,
  "1": True,
  "false": False,
  "f": False,
  "0": False,
}


def require(holds: bool, rule: str, **got: Any) -> None:
  """Raises ConfigError with the rule and the values unless it holds."""
  if not holds:
    values = ", ".join(f"{name}={value}" for name, value in got.items())
    raise ConfigError(f"{rule}, got {values}" if got else rule)


def require_divides(section: str, micro_batch: int, batch: int) -> None:
  """Raises ConfigError unless micro-batches of a section fill its batch."""
  require(
    not micro_batch or batch % micro_batch == 0,
    f"{section}.micro_batch_size must divide {section}.batch_size",
    micro_batch_size=micro_batch,
    batch_size=batch,
  )


def shown(value: Any) -> str:
  """A value as a message quotes it: abbreviated, on one line."""
  try:
    return reprlib.repr(value)
  except ValueError:  # Python writes no number of more than 4300 digits
    return "a number too large to write down"


def did_you_mean(name: str, known: Sequence[str]) -> str:
  """`; did you mean …?` with the known name closest to this, or nothing."""
  close = difflib.get_close_matches(name, known, n=1)
  return f"; did you mean {close[0]}?" if close else ""
