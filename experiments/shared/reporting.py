"""Result files, the tables in them, and the options every experiment has.

An experiment returns tables and figures. The tables are printed as Markdown,
and `--json` writes both to a result file together with the command, machine,
date and commit. `python -m experiments.tables` copies the tables of the
committed result files into the README files.
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

ROOT = Path(__file__).resolve().parents[2]  # of the repository
RESULTS = ROOT / "experiments" / "results"
LINE = 80  # longest line of a result file that is written without breaks

Cell = str | float | int | bool | None


class Table(NamedTuple):
  """A table whose numbers keep their type until it is printed.

  Attributes:
    columns: headings.
    formats: format specification of the numbers in each column.
    rows: one cell for each column. None is printed as "-".
  """

  columns: Sequence[str]
  formats: Sequence[str]
  rows: Sequence[Sequence[Cell]]


def make_table(rows: Sequence[Mapping[str, Cell]], **formats: str) -> Table:
  """A table of rows with the same keys.

  Args:
    rows: cells by heading.
    **formats: format of the numbers under a heading; three digits otherwise.
  """
  columns = list(rows[0])
  return Table(
    columns,
    [formats.get(name, ".3g") for name in columns],
    [[row[name] for name in columns] for row in rows],
  )


def format_table(table: Table) -> str:
  """Markdown, one line for each row."""
  lines = [table.columns, ["---"] * len(table.columns)]
  lines += [[*map(_format_cell, row, table.formats)] for row in table.rows]
  text = ["| " + " | ".join(cells) + " |" for cells in lines]
  text[1] = "|" + "---|" * len(table.columns)
  # An empty cell is one space wide.
  return "\n".join(line.replace("|  |", "| |") for line in text)


def _format_cell(value: Cell, spec: str) -> str:
  if value is None:
    return "-"
  if isinstance(value, bool):
    return "yes" if value else "no"
  if isinstance(value, int):
    return str(value)
  return value if isinstance(value, str) else format(value, spec)


def make_parser(description: str) -> argparse.ArgumentParser:
  """A parser with `--json`, whose help is the module's docstring as written."""
  parser = argparse.ArgumentParser(
    prog=f"python -m {_module_name()}",
    description=description,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument(
    "--json", type=Path, metavar="FILE", help="write the results to this file"
  )
  return parser


def report(
  tables: Mapping[str, Table],
  path: Path | None = None,
  figures: Mapping[str, Any] | None = None,
) -> None:
  """Prints the tables; writes them and the figures to `path` if it is given."""
  for name, table in tables.items():
    print(f"\n{name}\n\n{format_table(table)}")
  if path:
    save(tables, path, figures)


def save(
  tables: Mapping[str, Table],
  path: Path,
  figures: Mapping[str, Any] | None = None,
) -> None:
  """Writes a result file."""
  measured = {
    "command": " ".join(["python -m", _module_name(), *sys.argv[1:]]),
    "machine": describe_machine(),
    "date": datetime.date.today().isoformat(),
    "commit": find_commit(),
  }
  content: dict[str, Any] = {
    **(figures or {}),
    "measured": measured,
    "tables": {name: table._asdict() for name, table in tables.items()},
  }
  path.write_text(format_json(content) + "\n")


def describe_machine() -> str:
  device = jax.devices()[0]
  kind = "" if device.platform == "cpu" else f", {device.device_kind}"
  return (
    f"{os.cpu_count()} CPU cores{kind}, Python "
    f"{platform.python_version()}, jax {jax.__version__}"
  )


def find_commit() -> str | None:
  """The commit that is checked out, None outside a repository."""
  found = subprocess.run(
    ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"],
    capture_output=True,
    text=True,
  )
  return found.stdout.strip() or None


def _module_name() -> str:
  spec = sys.modules["__main__"].__spec__
  return spec.name if spec else Path(sys.argv[0]).stem


def format_json(value: Any, indent: str = "") -> str:
  """JSON with every list or object that fits into a line on one line."""
  line = json.dumps(value, ensure_ascii=False)
  if not isinstance(value, dict | list) or len(indent + line) <= LINE:
    return line
  inner = indent + "  "
  if isinstance(value, list) and not any(
    isinstance(item, dict | list) for item in value
  ):
    return line  # a row of a table
  if isinstance(value, list):
    items = [format_json(item, inner) for item in value]
    return f"[\n{inner}" + f",\n{inner}".join(items) + f"\n{indent}]"
  items = [
    f"{json.dumps(key, ensure_ascii=False)}: {format_json(item, inner)}"
    for key, item in value.items()
  ]
  return f"{{\n{inner}" + f",\n{inner}".join(items) + f"\n{indent}}}"
