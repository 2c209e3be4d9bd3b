"""The whole, as a user meets it: command lines, files, figures, mistakes."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import jax
import pytest
import xarray as xr
from absl.testing import absltest, parameterized

from induction_jax import train, visualize
from induction_jax.commands import command_line
from induction_jax.run import loop
from tests.entry_point import EntryPointTest, call, interrupted


class TrainTest(EntryPointTest):
  def train(self, *arguments):
    return self.run_here(train.main, *arguments)


@pytest.mark.slow
class WholeTest(TrainTest):
  def test_start_to_figures(self):
    status, out, err = self.train()
    self.assertEqual(status, 0, err)
    for line in (
      "transition on repeats: ",
      "induction head: no",
      "top eig",
      "first steps after ",
    ):
      self.assertIn(line, out)
    figures = {"transition", "spectrum", "alignment", "block_mass"}
    figures |= {"circuits", "composition", "eigenvalues", "patterns"}
    figures |= {"context", "ablation", "paths"}
    self.assertEqual(
      {path.stem for path in (self.workdir / "figures").glob("*.png")},
      figures,
    )
    for path in (self.workdir / "figures").iterdir():
      self.assertEqual(path.read_bytes()[:8], b"\x89PNG\r\n\x1a\n")
      self.assertGreater(path.stat().st_size, 20_000)
    self.check_summary(json.loads((self.workdir / "summary.json").read_text()))
    with xr.open_dataset(self.workdir / "results.nc") as results:
      for name, variable in results.data_vars.items():
        self.assertIn("long_name", variable.attrs, name)
        self.assertIn("units", variable.attrs, name)
    status, out, _ = call(visualize.main, self.workdir, "--format=svg")
    self.assertEqual(status, 0)
    drawn = {p.stem for p in (self.workdir / "figures").glob("*.svg")}
    self.assertEqual(drawn, figures)

  def check_summary(self, summary):
    self.assertEqual(
      set(summary),
      {"transition", "verdict", "heads", "final", "spectrum", "events", "cost"},
    )
    self.assertContainsSubset(
      ["status", "onset", "midpoint", "completion"], summary["transition"]
    )
    self.assertLen(summary["verdict"]["reasons"], 3)
    self.assertIsInstance(summary["verdict"]["has_induction_head"], bool)
    self.assertContainsSubset(
      ["layer", "head", "prefix_matching", "null"],
      summary["heads"]["induction"],
    )
    self.assertContainsSubset(
      ["pattern_accuracy", "random_accuracy", "loss"], summary["final"]
    )
    self.assertEqual(
      set(summary["spectrum"]),
      {
        f"{end}_{what}"
        for end in ("top", "bottom", "preconditioned_top")
        for what in (
          *("before", "before_step", "peak", "peak_step"),
          *("after", "after_step"),
          *("run_peak", "run_peak_step", "final"),
        )
      }
      | {"preconditioned_edge", "preconditioned_above_edge"},
    )
    cost = summary["cost"]
    self.assertBetween(cost["first_step_seconds"], 0.01, cost["wall_seconds"])
    self.assertGreater(cost["hvp_count"], 0)
    self.assertEqual(cost["measurements"], 25 + 5 + 5 + 5)
    self.assertGreaterEqual(
      cost["wall_seconds"], cost["train_seconds"] + cost["measure_seconds"]
    )

  def test_without_spectra_and_circuits(self):
    status, out, err = self.train(
      "--config.spectra.eigen_interval=0",
      "--config.circuits.interval=0",
      "--config.ablation.interval=0",
    )
    self.assertEqual(status, 0, err)
    self.assertIn("no ablation was measured", out)
    summary = json.loads((self.workdir / "summary.json").read_text())
    self.assertIsNone(summary["spectrum"]["top_peak"])
    self.assertEqual(
      {path.stem for path in (self.workdir / "figures").iterdir()},
      {"transition", "context", "patterns"},
    )


class MistakeTest(TrainTest):
  @parameterized.parameters(
    ("--config.model.nlayers=3", "did you mean model.n_layers"),
    ("--config.modle.n_layers=3", "did you mean model.n_layers"),
    ("--config.train.num_steps=many", "train.num_steps=many"),
    ("--config.train.num_steps=2.5", "train.num_steps=2.5"),
    ("--config.optim.learning_rate=-1", "must be a positive"),
    ("--config.optim.learning_rate=nan", "must be a positive"),
    ("--config.model.n_heads=3", "n_heads must divide"),
    (
      "--config.optim.momentum=0.5",
      "a setting of sgd, and optim.name is adamw",
    ),
    ("--workdir=", "must name a directory"),
    ("--workdri=x", "workdri"),
    ("extra", "unexpected argument 'extra'"),
  )
  def test_is_one_line_and_status_two(self, argument, message):
    status, out, err = self.train(argument)
    self.assertEqual((status, out), (2, ""))
    self.assertRegex(err, f"^error: .*{message}")
    self.assertEqual(err.count("\n"), 1)
    self.assertFalse(self.workdir.exists())

  @parameterized.parameters(
    (None, "no such file"),
    ("def get_config(:", "SyntaxError"),
    ("def get_config():\n  raise RuntimeError('boom')", "boom"),
    ("def get_config():\n  return 3", "must return a ConfigDict, got 3"),
    ("import sys\nsys.exit(0)", "SystemExit"),
  )
  def test_in_the_config_file(self, text, message):
    if text is None:
      self.config.unlink()
    else:
      self.config.write_text(text)
    status, _, err = self.train()
    self.assertEqual(status, 2)
    self.assertRegex(err, f"^error: .*{message}")
    self.assertEqual(err.count("\n"), 1)
    self.assertFalse(self.workdir.exists())

  def test_config_file_without_get_config(self):
    # In a process of its own: a module once loaded keeps its old names.
    self.config.write_text("x = 1")
    done = subprocess.run(
      [sys.executable, "-m", "induction_jax.train", f"--config={self.config}"],
      capture_output=True,
      text=True,
      check=False,
    )
    self.assertEqual(done.returncode, 2)
    self.assertRegex(done.stderr, "^error: .*defines no get_config")
    self.assertEqual(done.stderr.count("\n"), 1)

  def test_directory_as_config(self):
    status, _, err = call(train.main, f"--config={self.root}")
    self.assertEqual((status, err.count("\n")), (2, 1))
    self.assertIn("not a file", err)

  def test_workdir_below_a_file(self):
    status, _, err = call(
      train.main,
      f"--config={self.config}",
      f"--workdir={self.config / 'below'}",
    )
    self.assertEqual((status, err.count("\n")), (2, 1))
    self.assertIn("cannot be used", err)

  def test_no_config(self):
    status, _, err = call(train.main)
    self.assertEqual(status, 2)
    self.assertIn("--config is required", err)

  def test_help(self):
    status, out, _ = call(train.main, "--help")
    self.assertEqual(status, 0)
    self.assertIn("--workdir", out)

  def test_more_eigenvalues_than_parameters(self):
    status, _, err = self.train(
      "--config.spectra.track_top_k_eigenvalues=3000",
      "--config.spectra.max_order=6000",
    )
    self.assertEqual((status, err.count("\n")), (2, 1))
    self.assertIn("at most the number of parameters", err)
    self.assertFalse(self.workdir.exists())

  def test_single_dash_is_checked_as_well(self):
    status, _, err = self.train("-config.optim.momentum=0.5")
    self.assertEqual((status, err.count("\n")), (2, 1))
    self.assertIn("a setting of sgd", err)

  def test_visualize_needs_a_run(self):
    for arguments in ([], [self.root], [self.root / "none"]):
      status, _, err = call(visualize.main, *arguments)
      self.assertEqual(status, 2)
      self.assertRegex(err, "^error: ")
      self.assertEqual(err.count("\n"), 1)


class CompiledProgramsTest(absltest.TestCase):
  """Where an entry point keeps them; JAX's own settings are put back."""

  def setUp(self):
    super().setUp()
    self.root = Path(self.enter_context(tempfile.TemporaryDirectory()))
    for name in (
      "jax_compilation_cache_dir",
      "jax_enable_compilation_cache",
      "jax_persistent_cache_min_compile_time_secs",
    ):
      self.addCleanup(jax.config.update, name, getattr(jax.config, name))
    jax.config.update("jax_compilation_cache_dir", None)

  def keep(self, **environment):
    """The directory that is used, if any."""
    environment = {"HOME": str(self.root / "home")} | environment
    with mock.patch.dict(os.environ, environment):
      if "XDG_CACHE_HOME" not in environment:
        os.environ.pop("XDG_CACHE_HOME", None)
      command_line.keep_compiled()
    return jax.config.jax_compilation_cache_dir

  def test_where(self):
    cache = self.root / "home" / ".cache" / "induction_jax"
    self.assertEqual(self.keep(), str(cache))
    self.assertTrue(cache.is_dir())

  def test_xdg(self):
    found = self.keep(XDG_CACHE_HOME=str(self.root / "a" / "b"))
    self.assertEqual(found, str(self.root / "a" / "b" / "induction_jax"))

  def test_the_users_own_stays(self):
    jax.config.update("jax_compilation_cache_dir", "elsewhere")
    self.assertEqual(self.keep(), "elsewhere")

  def test_turned_off(self):
    jax.config.update("jax_enable_compilation_cache", False)
    self.assertIsNone(self.keep())
    self.assertFalse((self.root / "home").exists())

  def test_nowhere_to_write(self):
    (self.root / "file").touch()
    self.assertIsNone(self.keep(XDG_CACHE_HOME=str(self.root / "file")))


class ProcessesTest(parameterized.TestCase):
  @parameterized.parameters(False, True)
  def test_one_of_several_does_not_wait_for_those_who_wait_for_it(self, joined):
    fail = mock.Mock(side_effect=OSError("No space left"))
    with (
      mock.patch.object(
        command_line.processes, "is_connected", return_value=joined
      ),
      mock.patch.object(
        command_line.os, "_exit", side_effect=KeyError
      ) as at_once,
      mock.patch.object(
        command_line.sys, "exit", side_effect=KeyError
      ) as usual,
      contextlib.redirect_stderr(io.StringIO()),
      self.assertRaises(KeyError),
    ):
      command_line.run_main(fail)
    self.assertEqual((at_once.called, usual.called), (joined, not joined))

  def test_a_coordinator_that_is_none(self):
    values = mock.MagicMock(distributed=True)
    with (
      mock.patch.object(
        command_line.processes, "connect", side_effect=IndexError("x")
      ),
      self.assertRaisesRegex(command_line.ConfigError, "--distributed: x"),
    ):
      command_line.join_processes(values)


class InterruptTest(TrainTest):
  def test_a_run_that_is_not_complete_is_not_reported(self):
    with mock.patch.object(train, "run", return_value=loop.End(24, False)):
      status, out, _ = self.train()
    self.assertEqual(status, 128)  # and the signal, of which there was none
    self.assertIn("stopped at step 24; to go on:", out)
    self.assertFalse((self.workdir / "summary.json").exists())

  def test_a_signal_does_not_wait_for_the_report(self):
    with (
      mock.patch.object(train, "run", return_value=loop.End(24, True)),
      mock.patch.object(train, "write_results"),
      mock.patch.object(train, "find", interrupted),
    ):
      status, out, _ = self.train()
    self.assertEqual(status, 143)
    self.assertIn("stopped; to go on:", out)

  def test_second_signal_stops_at_once_and_says_how_to_go_on(self):
    script = (
      "  os.kill(os.getpid(), signal.SIGTERM)\n"
      "  assert interrupt.signal == signal.SIGTERM\n"
      "  os.kill(os.getpid(), signal.SIGINT)\n"
    )
    self.check_stops_at_once(script, 130)

  def test_once_nothing_needs_saving_the_first_signal_stops_at_once(self):
    script = (
      "  with interrupt.at_once():\n"
      "    pass\n"
      "  with interrupt.at_once():\n"
      "    os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    self.check_stops_at_once(script, 143)

  def test_a_signal_from_before_that_waits_no_longer(self):
    script = (
      "  with interrupt.at_once():\n"
      "    pass\n"
      "  os.kill(os.getpid(), signal.SIGTERM)\n"
      "  print('saves')\n"
      "  with interrupt.at_once():\n"
      "    print('never')\n"
    )
    done = self.check_stops_at_once(script, 143)
    self.assertStartsWith(done.stdout, "saves\nstopped")

  def check_stops_at_once(self, script, status):
    """Runs the script, as the body of a `with`, in a process of its own."""
    head = (
      "import os, signal\n"
      "from induction_jax.commands.interrupt import Interrupt\n"
      "with Interrupt('the command') as interrupt:\n"
    )
    done = subprocess.run(
      [sys.executable, "-c", head + script],
      capture_output=True,
      text=True,
      check=False,
    )
    self.assertEqual(done.returncode, status, done.stderr)
    self.assertEndsWith(done.stdout, "stopped; to go on:\n  the command\n")
    self.assertNotIn("Traceback", done.stderr)
    return done

  def test_sigint_saves_and_the_same_command_goes_on(self):
    command = [
      sys.executable,
      "-m",
      "induction_jax.train",
      f"--config={self.config}",
      f"--workdir={self.workdir}",
      "--config.train.num_steps=100000",
      "--config.circuits.interval=0",
      "--config.ablation.interval=0",
      "--config.spectra.eigen_interval=0",
    ]
    process = subprocess.Popen(
      command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    history = self.workdir / "history.jsonl"
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
      if history.exists() and history.read_text().count("\n") > 20:
        break
      time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=240)
    self.assertEqual(process.returncode, 130, err)
    self.assertRegex(out, r"stopped at step \d+; to go on:")
    resume = out.splitlines()[-1].strip()
    self.assertEqual(resume.split()[:3], ["python", "-m", command[2]])
    self.assertIn(str(self.workdir), resume)
    stopped = max(
      int(path.name) for path in (self.workdir / "checkpoints").iterdir()
    )
    self.assertIn(f"stopped at step {stopped};", out)
    last = json.loads(history.read_text().splitlines()[-1])
    # What is due there may be measured by the next start.
    self.assertBetween(last["step"], stopped - 1, stopped)


if __name__ == "__main__":
  absltest.main()
