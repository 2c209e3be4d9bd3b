"""Lists the commands, or runs one: python -m induction_jax train --help."""

import ast
import difflib
import runpy
import sys
from pathlib import Path

COMMANDS = ("train", "sweep", "zoom", "measure", "visualize", "export")


def main(argv: list[str]) -> int:
  """Runs the command line; returns the exit status."""
  if len(argv) < 2 or argv[1] in ("-h", "--help"):
    print("usage: python -m induction_jax COMMAND [flags]\n\ncommands:")
    for name in COMMANDS:
      print(f"  {name:<10} {summary(name)}")
    print("\nCOMMAND --help lists the flags of a command.")
    return 0
  name = argv[1]
  if name not in COMMANDS:
    close = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    known = ", ".join(COMMANDS)
    print(f"error: no command {name!r}{hint} ({known})", file=sys.stderr)
    return 2
  sys.argv = argv[1:]
  runpy.run_module(f"induction_jax.{name}", run_name="__main__", alter_sys=True)
  return 0


def summary(name: str) -> str:
  """The first line of a command's docstring, read without importing it."""
  text = (Path(__file__).parent / f"{name}.py").read_text(encoding="utf-8")
  return (ast.get_docstring(ast.parse(text)) or "").splitlines()[0]


if __name__ == "__main__":
  sys.exit(main(sys.argv))
