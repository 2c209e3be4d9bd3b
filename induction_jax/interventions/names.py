"""Lists of names in a config: separated by commas, with * for any text."""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from induction_jax.config import ConfigError, did_you_mean


def split_list(text: str) -> list[str]:
  """The items of a list; none if the text is blank."""
  return [item.strip() for item in text.split(",")] if text.strip() else []


def choose(leaf: str, wanted: str, known: Sequence[str]) -> list[str]:
  """The known names that match `wanted`.

  Args:
    leaf: the setting, for the error message.
    wanted: a name, in which * stands for any text. Heads in it may be written
      L1H3 or, as in configs of earlier versions, 1.3.
    known: all names, with heads in either form.

  Raises:
    ConfigError: if no name matches.
  """
  chosen = [
    name
    for name in known
    if any(fnmatchcase(form, wanted) for form in _forms(name))
  ]
  if not chosen:
    raise unknown_name(leaf, wanted, known)
  return chosen


def unknown_name(leaf: str, wanted: str, known: Sequence[str]) -> ConfigError:
  """The error for a name that matches none of those known."""
  current = [_forms(name)[0] for name in known]
  return ConfigError(
    f"{leaf} must name some of {', '.join(current)}, got {wanted!r}"
    f"{did_you_mean(_forms(wanted)[0], current)}"
  )


def _forms(name: str) -> tuple[str, str]:
  """A name with its head written L1H3, and written 1.3 as it was earlier."""
  current = re.sub(r"(\d+)\.(\d+)", r"L\1H\2", name)
  return current, re.sub(r"L(\d+)H(\d+)", r"\1.\2", current)
