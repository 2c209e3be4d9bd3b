"""The README's commands and code run as they stand."""

import contextlib
import importlib
import io
import re
import shlex
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import xarray as xr
from absl.testing import absltest

from induction_jax import tasks, train
from induction_jax.measurements import MEASUREMENTS
from induction_jax.report.figures import FIGURES
from tests.entry_point import CONFIG, call

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
# Small, but with the steps and checkpoints that the commands name.
SETTINGS = {
  "train__num_steps": 440,
  "behaviour__interval": 20,
  "circuits__interval": 220,
  "ablation__interval": 220,
  "spectra__eigen_interval": 220,
  "spectra__preconditioned_top_k": 0,
  "checkpoint__interval": 200,
  "checkpoint__log_spaced": False,
}
MOST_LINES = 3600  # of what one reads to understand the program


def blocks(language):
  return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands():
  """Module and arguments of every command of the package, in order."""
  lines = [line for block in blocks("bash") for line in block.splitlines()]
  parts = [part for line in lines for part in line.split("&&")]
  found = [shlex.split(part, comments=True) for part in parts]
  return [
    (words[2], words[3:]) for words in found if words[:2] == ["python", "-m"]
  ]


def run_code(code):
  names: dict = {}
  with contextlib.redirect_stdout(io.StringIO()):
    exec(compile(code, "README.md", "exec"), names)
  return names


@pytest.mark.slow
class CommandsTest(absltest.TestCase):
  def test_every_command(self):
    root = Path(self.enter_context(tempfile.TemporaryDirectory()))
    self.enter_context(contextlib.chdir(root))
    (root / "tiny.py").write_text(CONFIG.format(SETTINGS))
    ran = set()
    for module, arguments in commands():
      small = [
        re.sub(r"configs/\w+.py", "tiny.py", x).replace("=64", "=2")
        for x in arguments
      ]
      main = importlib.import_module(module).main
      status, out, err = call(main, *small)
      self.assertEqual(status, 0, f"{module} {small}: {out} {err}")
      ran.add(module.removeprefix("induction_jax."))
    self.assertEqual(
      ran, {"train", "sweep", "zoom", "measure", "visualize", "export"}
    )


class CodeTest(absltest.TestCase):
  def test_spectra_of_your_own_loss(self):
    (code,) = [block for block in blocks("python") if "def loss" in block]
    names = run_code(code)
    found, hessian = names["found"], names["hessian"]
    matrix = names["spectra"].dense(hessian, names["params"])
    exact = np.linalg.eigvalsh(np.asarray(matrix, np.float64))
    self.assertTrue(found.top.converged.all())
    np.testing.assert_allclose(found.top.values, exact[::-1][:10], rtol=1e-3)
    np.testing.assert_allclose(found.bottom.values, exact[:10], atol=1e-4)

  @pytest.mark.slow
  def test_your_own_measurement_task_and_figure(self):
    root = Path(self.enter_context(tempfile.TemporaryDirectory()))
    for table in (MEASUREMENTS, tasks.TASKS, FIGURES):
      self.enter_context(mock.patch.dict(table))
    (code,) = [block for block in blocks("python") if "make_largest" in block]
    run_code(code)
    (root / "tiny.py").write_text(
      CONFIG.format(
        {
          "task__name": "mirrored",
          "task__vocab_size": 30,
          "task__seq_length": 63,
          "train__num_steps": 12,
        }
      )
    )
    workdir = root / "run"
    status, out, err = call(
      train.main, f"--config={root}/tiny.py", f"--workdir={workdir}"
    )
    self.assertEqual(status, 0, out + err)
    with xr.open_dataset(workdir / "results.nc") as results:
      largest = results.largest_entry.dropna("step")
      np.testing.assert_array_equal(largest.step, [0, 6, 12])
      self.assertTrue(((largest > 0) & (largest <= 1)).all())
      # Half of each sequence mirrors the other one.
      self.assertEqual(results.loss_by_position.sizes["position"], 63)
    self.assertTrue((workdir / "figures" / "largest.png").exists())


class ReadingTest(absltest.TestCase):
  def test_lines_of_what_one_reads(self):
    rows = re.findall(r"^\| `(.+)` \| (\d+) \|$", README, re.MULTILINE)
    total = 0
    for names, stated in rows:
      paths = [ROOT / name for name in names.split("`, `")]
      lines = sum(len(path.read_text().splitlines()) for path in paths)
      self.assertLess(abs(lines - int(stated)), 0.1 * lines, names)
      total += lines
    self.assertGreater(len(rows), 8)
    self.assertLessEqual(total, MOST_LINES)

  def test_links_and_lengths(self):
    for path in re.findall(r"\]\(([^)#]+)\)", README):
      self.assertTrue((ROOT / path).exists(), path)
    lines = [x for x in README.splitlines() if x[:1] not in "|!"]
    self.assertLessEqual(max(map(len, lines)), 100)
    self.assertLessEqual(len(README.splitlines()), 205)


if __name__ == "__main__":
  absltest.main()
