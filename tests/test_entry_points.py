"""Commands of a run: output, files, figures, mistakes and interruptions."""

import json
import signal
import subprocess
import sys
import time
from unittest import mock

import pytest
import xarray as xr
from absl.testing import absltest, parameterized

from induction_jax import export, measure, train, visualize, zoom
from induction_jax.run import loop
from tests.entry_point import EntryPointTest, call, interrupted


class TrainTest(EntryPointTest):
  def train(self, *arguments):
    return self.run_here(train.main, *arguments)


@pytest.mark.slow
class CommandTest(TrainTest):
  def test_train_writes_results_figures_and_summary(self):
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
    # In a separate process, because a loaded module keeps its old names.
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

  @parameterized.parameters(
    ("configs/quick.py", "did you mean --config configs/quick.py?"),
    ("quick", "did you mean --config quick?"),
    (".", "did you mean --workdir .?"),
    ("--work-dir=x", "unknown flag --work-dir; did you mean --workdir?"),
    ("--config=quick", "--config is given 2 times"),
    ("--config=", "--config is given 2 times"),
    ("--config.SECTION.LEAF=3", "unknown config key SECTION.LEAF"),
    ("--config.model.n_heads", "expected one argument"),
    ("--config.spectra.exact=maybe", "must be bool, got 'maybe'"),
  )
  def test_suggests_a_correct_argument(self, argument, message):
    status, out, err = self.train(argument)
    self.assertEqual((status, out, err.count("\n")), (2, "", 1))
    self.assertIn(message, err)

  @parameterized.parameters(
    (visualize, ["{run}/checkpoints/40"], "visualize {run}?"),
    (visualize, ["{run}/results.nc"], "visualize {run}?"),
    (export, ["{run}/checkpoints/40"], "export {run} --step=40?"),
    (zoom, ["--workdir", "{run}"], "zoom {run}?"),
    (measure, ["--workdir={run}"], "measure {run}?"),
    (
      visualize,
      ["--formt=png"],
      "unknown flag --formt; did you mean --format?",
    ),
    (measure, ["{run}", "--ablate"], "--ablate needs --weights"),
    (measure, ["{run}", "--weights=x"], "unexpected argument '{run}'"),
    (measure, ["--weights=x", "--step=4"], "--weights is a file"),
    (measure, ["--weights=x", "--batch-size=1"], "at least 2, got 1"),
    (export, [], "a run directory is required: python -m induction_jax.export"),
  )
  def test_suggests_a_correct_command(self, command, arguments, message):
    run = self.root / "run"
    run.mkdir()
    (run / "config.json").touch()
    arguments = [x.format(run=run) for x in arguments]
    status, out, err = call(command.main, *arguments)
    self.assertEqual((status, out, err.count("\n")), (2, "", 1))
    self.assertIn(message.format(run=run), err)

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


class InterruptTest(TrainTest):
  def test_an_incomplete_run_has_no_summary(self):
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

  def test_second_signal_stops_at_once_and_prints_the_command(self):
    script = (
      "  os.kill(os.getpid(), signal.SIGTERM)\n"
      "  assert interrupt.signal == signal.SIGTERM\n"
      "  os.kill(os.getpid(), signal.SIGINT)\n"
    )
    self.check_stops_at_once(script, 130)

  def test_with_nothing_to_save_the_first_signal_stops_at_once(self):
    script = (
      "  with interrupt.at_once():\n"
      "    pass\n"
      "  with interrupt.at_once():\n"
      "    os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    self.check_stops_at_once(script, 143)

  def test_an_earlier_signal_stops_before_the_report(self):
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
    """Runs the script as the body of a `with` in a separate process."""
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

  def test_sigint_saves_and_prints_how_to_resume(self):
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
    # Measurements due at this step may be left to the resumed run.
    self.assertBetween(last["step"], stopped - 1, stopped)


if __name__ == "__main__":
  absltest.main()
