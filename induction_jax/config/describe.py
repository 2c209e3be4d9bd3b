"""What every setting means: for a reader, and as configs/base.py.

python -m induction_jax.config.describe > configs/base.py
"""

import json
import textwrap
from typing import Any

from induction_jax.config.reading import leaves, value_of
from induction_jax.config.sections import Config

WIDTH = 80
BASE_HEAD = '''"""Base: the reference run, and every setting with its default.

Question: when does a two-layer attention-only transformer form an induction
head on patterns that return at unpredictable distances, and what does the loss
Hessian do meanwhile?

Command:
  python -m induction_jax.train --config configs/base.py

What to expect: the transition between steps 700 and 900.

This file is generated from the declarations in induction_jax/config/:
  python -m induction_jax.config.describe > configs/base.py
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  config = ConfigDict()
'''


def describe(config: Config) -> str:
  """Every setting: value in this config, default, allowed values, meaning."""
  lines, section = [], ""
  for name, leaf in leaves().items():
    if (here := name.rpartition(".")[0]) != section:
      section = here
      lines += ["", f"{section}: {_summary(section)}"]
    value, default = value_of(config, name), leaf.field.default
    same = "the default" if value == default else f"default {_code(default)}"
    allowed = leaf.field.metadata["allowed"]
    lines.append(f"  {name} = {_code(value)}  ({same}; {allowed})")
    lines += _wrap(leaf.field.metadata["doc"], " " * 6)
  return "\n".join(lines).lstrip("\n")


def base_text() -> str:
  """The text of configs/base.py."""
  lines, section = [], ""
  for name, leaf in leaves().items():
    if (here := name.rpartition(".")[0]) != section:
      section = here
      lines += ["", *_wrap(_summary(section), "  # ")]
      lines.append(f"  config.{section} = ConfigDict()")
    lines += _wrap(leaf.field.metadata["doc"], "  # ")
    lines.append(f"  config.{name} = {_code(leaf.field.default)}")
  return (
    BASE_HEAD + "\n".join(lines).lstrip("\n") + "\n\n  return config.lock()\n"
  )


def _summary(section: str) -> str:
  """The first line of a section's docstring."""
  return (type(getattr(Config(), section)).__doc__ or "").splitlines()[0]


def _wrap(text: str, indent: str) -> list[str]:
  return textwrap.wrap(
    text,
    WIDTH,
    initial_indent=indent,
    subsequent_indent=indent,
    break_on_hyphens=False,
  )


def _code(value: Any) -> str:
  """A value in Python, as the formatter writes it."""
  return json.dumps(value) if isinstance(value, str) else repr(value)


if __name__ == "__main__":
  print(base_text(), end="")
