"""Mistaken command lines, and what was probably meant."""

import argparse
from pathlib import Path
from typing import NoReturn

from induction_jax.config import ConfigError, config_names, did_you_mean


class Parser(argparse.ArgumentParser):
  """A parser whose errors are ConfigErrors."""

  def error(self, message: str) -> NoReturn:
    raise ConfigError(message)

  @property
  def flags(self) -> list[str]:
    """The flags that the parser knows."""
    return list(self._option_string_actions)

  @property
  def takes_run(self) -> bool:
    """Whether its argument is the directory of a run."""
    return any(action.dest == "run" for action in self._actions)


def unexpected(
  parser: Parser, argument: str, values: argparse.Namespace
) -> str:
  """The message for an argument that a command does not have."""
  if argument.startswith("-"):
    name, _, value = argument.partition("=")
    run = value or getattr(values, "run", None)
    if parser.takes_run and run and name in ("--workdir", "--run"):
      return f"unknown flag {name}; did you mean {parser.prog} {run}?"
    return f"unknown flag {name}{did_you_mean(name, parser.flags)}"
  message, hint = f"unexpected argument {argument!r}", ""
  if "--config" in parser.flags:
    if argument.endswith(".py") or argument in config_names():
      hint = f"; did you mean --config {argument}?"
    elif Path(argument).is_dir():
      hint = f"; did you mean --workdir {argument}?"
  return message + hint


def inside_run(parser: Parser, path: Path) -> str:
  """The message for a path inside a run directory; empty for any other."""
  inside = [x for x in path.parents if (x / "config.json").is_file()]
  if (path / "config.json").exists() or not inside:
    return ""
  meant = f"{parser.prog} {inside[0]}"
  place = path.relative_to(inside[0]).parts
  if place[0] == "checkpoints" and place[-1].isdecimal():
    meant += f" --step={place[-1]}" if "--step" in parser.flags else ""
  return (
    f"{path} is inside the run directory {inside[0]}; did you mean {meant}?"
  )
