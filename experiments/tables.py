"""Writes the tables of the README files from the committed result files.

Question: do the README files show what experiments/results holds?

Each table stands between the comments `<!-- table FILE.NAME -->` and
`<!-- end of table -->`, and is made from the table NAME of
experiments/results/FILE.json. Below it follows when, where and how it was
measured. Whatever stands between the comments is replaced.

Prints: the README files that changed. With `--check` nothing is written, and
the exit status is 1 if a file is out of date.
Takes: a second.
"""

import argparse
import json
import os
import re
import sys
import textwrap
from pathlib import Path

from experiments.shared.reporting import RESULTS, Table, format_table

READMES = sorted(RESULTS.parent.rglob("*.md"))
WIDTH = 100  # of prose
BLOCK = re.compile(
  r"(?P<start><!-- table (?P<file>\w+)\.(?P<name>\w+) -->\n)"
  r".*?(?P<end><!-- end of table -->)",
  re.DOTALL,
)


def main(argv: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("--check", action="store_true", help="write nothing")
  options = parser.parse_args(argv)
  stale = [path for path in READMES if path.read_text() != render(path)]
  for path in stale:
    if not options.check:
      path.write_text(render(path))
    print(f"{'out of date' if options.check else 'written'}: {path}")
  sys.exit(options.check and bool(stale))


def render(readme: Path, results: Path = RESULTS) -> str:
  """The text of a README file with every table made anew.

  Raises:
    FileNotFoundError, KeyError: if a result file or a table is missing.
  """

  def replace(found: re.Match) -> str:
    path = results / f"{found['file']}.json"
    content = json.loads(path.read_text())
    table = Table(**content["tables"][found["name"]])
    link = os.path.relpath(path, readme.parent)
    caption = describe_origin(content["measured"], link)
    return f"{found['start']}{format_table(table)}\n\n{caption}\n{found['end']}"

  return BLOCK.sub(replace, readme.read_text())


def describe_origin(measured: dict, link: str) -> str:
  """Where, when and how a table was measured, in lines of WIDTH."""
  commit = measured["commit"]
  when = measured["date"] + (f", commit {commit}" if commit else "")
  text = f"Source: [{Path(link).name}]({link}); {measured['machine']}; {when}."
  return textwrap.fill(text, WIDTH, break_on_hyphens=False)


if __name__ == "__main__":
  main()
