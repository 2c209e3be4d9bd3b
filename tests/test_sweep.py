"""The sweep command: files, interruptions, grids and mistakes."""

import contextlib
import json
import signal
import tempfile
from pathlib import Path
from unittest import mock

import pytest
import xarray as xr
from absl.testing import absltest, parameterized

from induction_jax import sweep
from induction_jax.commands.sweep_options import make_grid
from induction_jax.config import ConfigError, make_config
from induction_jax.run import seeds
from induction_jax.run.log import DivergedError
from induction_jax.run.loop import End
from induction_jax.storage.sweep_directory import (
  SweepPlan,
  open_grid,
  open_sweep,
  read_plan,
)
from tests.entry_point import EntryPointTest, interrupted
from tests.tiny import tiny_config

SETTINGS = {
  "train__num_steps": 12,
  "circuits__interval": 0,
  "ablation__interval": 0,
  "spectra__eigen_interval": 0,
  "behaviour__interval": 3,
}


class SweepTest(EntryPointTest):
  settings = SETTINGS

  def sweep(self, *arguments):
    return self.run_here(sweep.main, *arguments)


class _Stopping:
  """A watcher that interrupts the sweep at a step."""

  def __init__(self, num_steps):
    del num_steps

  def update(self, progress):
    if progress.step == 6:
      signal.raise_signal(signal.SIGINT)

  def close(self):
    pass


@pytest.mark.slow
class CommandTest(SweepTest):
  def test_stop_resume_and_read(self):
    arguments = ("--seeds=4", "--group", "2", "--first-seed=1")
    with mock.patch.object(sweep, "make_watcher", _Stopping):
      status, out, err = self.sweep(*arguments)
    self.assertEqual(status, 130, err)
    with xr.open_dataset(self.workdir / "results.nc") as results:
      self.assertEqual(list(results.seed), [1, 2])
      measured = results.induction_accuracy.dropna("step")
      self.assertEqual(list(measured.step), [0, 3, 6])
    self.assertIn("to go on:\n  python -m induction_jax.sweep --config", out)
    with mock.patch.object(sweep, "find", interrupted):
      status, out, _ = self.sweep(*arguments)
    self.assertEqual(status, 143)
    with mock.patch.object(seeds, "run", return_value=End(12, complete=False)):
      status, out, _ = self.sweep(*arguments)
    self.assertEqual(status, 128)  # and the signal, of which there was none
    self.assertIn("stopped; to go on:", out)
    self.assertFalse((self.workdir / "summary.json").exists())
    status, out, err = self.sweep(*arguments)
    self.assertEqual(status, 0, err)
    self.assertIn("| 4 | ambiguous | - | - | - | no |", out)
    self.assertIn("4 seeds, 2 at once (map) on 1 of 1 devices", out)
    with xr.open_dataset(self.workdir / "results.nc") as results:
      self.assertEqual(results.induction_accuracy.dims, ("seed", "step"))
      self.assertEqual(list(results.seed), [1, 2, 3, 4])
      for name, variable in results.data_vars.items():
        self.assertIn("long_name", variable.attrs, name)
    summary = json.loads((self.workdir / "summary.json").read_text())
    self.assertEqual(summary["statuses"], {"ambiguous": 4})
    run = self.workdir / "seed_0003"
    self.assertEqual(json.loads((run / "config.json").read_text())["seed"], 3)
    for name in ("environment.json", "results.nc", "summary.json"):
      self.assertTrue((run / name).exists(), name)
    # The same command finds nothing to do, and a different one is refused.
    histories = [p.read_bytes() for p in self.workdir.glob("*/history.jsonl")]
    self.assertEqual(self.sweep(*arguments)[0], 0)
    self.assertEqual(
      [p.read_bytes() for p in self.workdir.glob("*/history.jsonl")], histories
    )
    # If every seed has diverged, there is nothing to resume either.
    every = DivergedError(3, "x")
    with mock.patch.object(seeds, "run", side_effect=every):
      self.assertEqual(self.sweep(*arguments)[0], 0)


@pytest.mark.slow
class GridTest(SweepTest):
  def test_leaves_that_change_shapes(self):
    status, out, err = self.sweep(
      "--seeds=2",
      "--over=model.n_heads=1,2",
      "--over",
      "optim.learning_rate=1e-3",
    )
    self.assertEqual(status, 0, err)
    for n_heads in (1, 2):
      name = f"model.n_heads={n_heads},optim.learning_rate=0.001"
      self.assertIn(f"| {name} | 0 of 2 | 2 ambiguous |", out)
      with xr.open_dataset(self.workdir / name / "results.nc") as results:
        self.assertEqual(results.sizes["head"], n_heads)
        self.assertEqual(results.sizes["seed"], 2)
    settings = json.loads((self.workdir / "summary.json").read_text())
    self.assertLen(settings["settings"], 2)


class MistakeTest(SweepTest):
  @parameterized.parameters(
    (("--seeds=0",), "--seeds must be at least 1, got 0"),
    ((), "--seeds is required, such as 64"),
    (("--seeds=4", "--group=3"), "--group must divide --seeds"),
    (("--seeds=2", "--first-seed=4294967295"), "must be in [0, 2^32)"),
    (("--seeds=2", "--config.seed=1"), "are --first-seed and --seeds"),
    (("--seeds=2", "--over=seed=1,2"), "are --first-seed and --seeds"),
    (("--seeds=2", "--over=optim.lerning_rate=1"), "did you mean optim.l"),
    (("--seeds=2", "--over=optim.learning_rate=1,x"), "must be float, got 'x'"),
    (("--seeds=2", "--over=optim.learning_rate=1,-1"), "must be a positive"),
    (("--seeds=2", "--over=optim.learning_rate=1,1.0"), "has a value twice"),
    (("--seeds=2", "--over=optim.momentum=0.5"), "is a setting of sgd"),
    (("--seeds=2", "--over=optim"), "must be section.leaf=a,b, got 'optim'"),
    (("--seeds=2", "--over=train"), "must be section.leaf=a,b, got 'train'"),
    (
      (
        "--seeds=2",
        "--over=optim.eps=1,2",
        "--config.optim.eps=1",
      ),
      "is given both by --over and --config.optim.eps",
    ),
    (
      ("--seeds=2", "--over=optim.eps=1", "--over=optim.eps=2"),
      "--over optim.eps is given twice",
    ),
    (("--seeds=2", "--mapping=both"), "mapping"),
    (("--seeds=2", "--memory-gib=0"), "--memory-gib must be positive"),
    (("--seeds=2", "more"), "unexpected argument 'more'"),
  )
  def test_one_clear_line(self, arguments, message):
    status, _, err = self.sweep(*arguments)
    self.assertEqual(status, 2, err)
    self.assertStartsWith(err, "error: ")
    self.assertLen(err.strip().splitlines(), 1)
    self.assertIn(message, err)
    self.assertFalse(self.workdir.exists())


class DirectoryTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.root = Path(self.enter_context(tempfile.TemporaryDirectory()))
    self.config = make_config(tiny_config().to_dict())
    self.plan = SweepPlan(seeds=4, first_seed=0, group=2, mapping="map")

  @contextlib.contextmanager
  def refused(self, message):
    before = sorted(self.root.rglob("*"))
    with self.assertRaisesRegex(ConfigError, message):
      yield
    self.assertEqual(sorted(self.root.rglob("*")), before)

  def test_another_directory_or_plan_is_refused(self):
    root = self.root / "a"
    open_sweep(root, self.config, self.plan)
    open_sweep(root, self.config, self.plan)
    self.assertEqual(read_plan(root), self.plan)
    self.assertIsNone(read_plan(self.root))
    other = make_config(tiny_config(optim__eps=1e-6).to_dict())
    with self.refused("it differs in optim.eps"):
      open_sweep(root, other, self.plan)
    with self.refused(r"differs in group, seeds\)"):
      open_sweep(root, self.config, self.plan._replace(seeds=8, group=4))
    with self.refused("differs in"):
      open_grid(root, self.config, {"optim.eps": [1.0]})
    open_grid(self.root / "grid", self.config, {"optim.eps": [1.0]})
    with self.refused(r"differs in optim.eps\)"):
      open_grid(self.root / "grid", self.config, {"optim.eps": [2.0]})
    (self.root / "b").mkdir()
    (self.root / "b" / "config.json").write_text("{}")
    with self.refused("is not empty and holds no sweep"):
      open_sweep(self.root / "b", self.config, self.plan)
    with self.refused("cannot be used"):
      open_sweep(root / "sweep.json" / "c", self.config, self.plan)

  def test_grid(self):
    over = ["optim.eps=1e-6,1e-7", "model.smeared_keys=true,false"]
    settings = make_grid(self.config, over, [])
    self.assertEqual(
      [setting.name for setting in settings],
      [
        f"optim.eps={eps},model.smeared_keys={smeared}"
        for eps in ("1e-06", "1e-07")
        for smeared in ("True", "False")
      ],
    )
    self.assertEqual(settings[1].config.optim.eps, 1e-6)
    self.assertFalse(settings[1].config.model.smeared_keys)
    alone = make_grid(self.config, [], [])
    self.assertEqual([(s.name, s.config) for s in alone], [("", self.config)])
    slash = make_grid(self.config, ["intervention.freeze=a/b"], [])
    self.assertEqual(slash[0].name, "intervention.freeze=a-b")


if __name__ == "__main__":
  absltest.main()
