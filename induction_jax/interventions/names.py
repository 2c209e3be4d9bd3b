"""Lists of names in a config: separated by commas, * for anything."""

from collections.abc import Sequence
from fnmatch import filter as matching

from induction_jax.config import ConfigError, did_you_mean


def split_list(text: str) -> list[str]:
  """The items of a list; none of an empty text."""
  return [item.strip() for item in text.split(",")] if text.strip() else []


def choose(leaf: str, wanted: str, known: Sequence[str]) -> list[str]:
  """The known names that `wanted` stands for.

  Args:
    leaf: the config's leaf, for the message.
    wanted: a name, in which * stands for any text.
    known: what there is.

  Raises:
    ConfigError: if there is no such name.
  """
  chosen = matching(known, wanted)
  if not chosen:
    raise unknown_name(leaf, wanted, known)
  return chosen


def unknown_name(leaf: str, wanted: str, known: Sequence[str]) -> ConfigError:
  """What to say of a name that is none of those known."""
  return ConfigError(
    f"{leaf} must name some of {', '.join(known)}, got {wanted!r}"
    f"{did_you_mean(wanted, known)}"
  )
