"""The experiments: their README tables are what the result files hold."""

import json
import re
import shutil
import tempfile
from pathlib import Path

from absl.testing import absltest, parameterized

from experiments import tables
from experiments.shared.reporting import RESULTS, Table, format_table

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
