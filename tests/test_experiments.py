"""The experiments: tables of the README files, result files and help."""

import contextlib
import importlib
import io
import json
import re
import shutil
import tempfile
from pathlib import Path

from absl.testing import absltest, parameterized

from experiments import tables
from experiments.shared import reporting
from experiments.shared.reporting import RESULTS, Table, format_table

EXPERIMENTS = RESULTS.parent
# Every module that can be called is a program.
PROGRAMS = sorted(
  ".".join(path.relative_to(EXPERIMENTS.parent).with_suffix("").parts)
  for path in EXPERIMENTS.rglob("*.py")
  if '__name__ == "__main__"' in path.read_text()
)
START = re.compile(r"<!-- table (\w+\.\w+) -->")


class ReadmeTablesTest(parameterized.TestCase):
  @parameterized.parameters(*tables.READMES)
  def test_up_to_date(self, readme):
    self.assertEqual(
      readme.read_text(),
      tables.render(readme),
      "run python -m experiments.tables",
    )

  @parameterized.parameters(*tables.READMES)
  def test_no_table_outside_the_markers(self, readme):
    outside = tables.BLOCK.sub("", readme.read_text())
    found = [line for line in outside.split("\n") if line.startswith("|")]
    self.assertEqual(found, [])

  @parameterized.parameters(*tables.READMES)
  def test_line_length(self, readme):
    prose = tables.BLOCK.sub("", readme.read_text()).split("\n")
    long = [line for line in prose if len(line) > tables.WIDTH]
    self.assertEqual(long, [])

  def test_every_result_file_is_shown(self):
    shown = set()
    for readme in tables.READMES:
      shown |= {x.split(".")[0] for x in START.findall(readme.read_text())}
    self.assertEqual(shown, {path.stem for path in RESULTS.glob("*.json")})


class RenderTest(absltest.TestCase):
  """A changed number is seen, whichever side it is changed on."""

  def setUp(self):
    super().setUp()
    folder = Path(self.enter_context(tempfile.TemporaryDirectory()))
    self.results = folder / "results"
    shutil.copytree(RESULTS, self.results)
    self.readme = folder / "README.md"
    source = (RESULTS.parent / "README.md").read_text()
    self.readme.write_text(source)
    self.rendered = tables.render(self.readme, self.results)

  def test_changed_result(self):
    path = self.results / "faults.json"
    content = json.loads(path.read_text())
    content["tables"]["faults"]["rows"][0][-1] = 7
    path.write_text(json.dumps(content))
    changed = tables.render(self.readme, self.results)
    self.assertNotEqual(changed, self.rendered)

  def test_changed_table(self):
    self.readme.write_text(self.rendered.replace("| 200 | 0 |", "| 200 | 7 |"))
    self.assertNotEqual(self.readme.read_text(), self.rendered)
    self.assertEqual(tables.render(self.readme, self.results), self.rendered)

  def test_missing_result(self):
    (self.results / "faults.json").unlink()
    with self.assertRaises(FileNotFoundError):
      tables.render(self.readme, self.results)


class HelpTest(parameterized.TestCase):
  @parameterized.parameters(*PROGRAMS)
  def test_help(self, program):
    module = importlib.import_module(program)
    out = io.StringIO()
    with self.assertRaises(SystemExit), contextlib.redirect_stdout(out):
      module.main(["--help"])
    for heading in ("Question: ", "Prints: ", "Takes: "):
      self.assertIn(f"\n{heading}", out.getvalue())
    if module is not tables:
      self.assertIn("--json FILE", out.getvalue())

  def test_programs_are_found(self):
    self.assertIn("experiments.peers.spectra", PROGRAMS)
    self.assertGreater(len(PROGRAMS), 8)

  def test_every_program_is_in_a_readme(self):
    text = "".join(path.read_text() for path in tables.READMES)
    missing = [x for x in PROGRAMS if f"python -m {x}" not in text]
    self.assertEqual(missing, [])


class ResultFileTest(absltest.TestCase):
  def test_written_and_read(self):
    table = Table(["a", "b"], ["", ".1f"], [["x", 1.25], [None, 2.0]])
    path = Path(self.enter_context(tempfile.TemporaryDirectory())) / "x.json"
    with contextlib.redirect_stdout(io.StringIO()) as out:
      reporting.report({"one": table}, path, {"speedup": 2.0})
    self.assertIn(format_table(table), out.getvalue())
    content = json.loads(path.read_text())
    self.assertEqual(content["speedup"], 2.0)
    self.assertEqual(Table(**content["tables"]["one"]), table)
    self.assertIn("jax", content["measured"]["machine"])
    self.assertEqual(
      set(content["measured"]), {"command", "machine", "date", "commit"}
    )

  def test_format_is_json(self):
    value = {"a": [[1, "b, c"] * 30, []], "d": {"e" * 80: None}, "f": "[é]"}
    self.assertEqual(json.loads(reporting.format_json(value)), value)


class FormatTest(absltest.TestCase):
  def test_cells(self):
    table = Table(
      ["name", "n", "x", ""],
      ["", "", ".1e", ".2f"],
      [["a", 3, 0.00123, None], ["b", True, "1 [0, 2]", ""]],
    )
    self.assertEqual(
      format_table(table),
      "| name | n | x | |\n|---|---|---|---|\n"
      "| a | 3 | 1.2e-03 | - |\n| b | yes | 1 [0, 2] | |",
    )


if __name__ == "__main__":
  absltest.main()
