"""What the commands share: flags, settings, help, processes, compiled code."""

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

import jax
from absl.testing import absltest, parameterized

from induction_jax import export, measure, sweep, train, visualize, zoom
from induction_jax.commands import command_line
from induction_jax.config import Config
from induction_jax.config.reading import value_of
from induction_jax.storage.run_directory import open_run
from tests.entry_point import EntryPointTest, call


class HelpTest(EntryPointTest):
  @parameterized.parameters(
    (train, "--config --config.SECTION.LEAF --workdir --noresume"),
    (sweep, "--over --seeds --first-seed --group --memory-gib --mapping"),
    (zoom, "RUN --from --to --every --measurements"),
    (measure, "RUN --step --measurements --weights --ablate --batch-size"),
    (visualize, "RUN --format"),
    (export, "RUN --step --out"),
  )
  def test_lists_every_flag(self, command, flags):
    status, out, err = call(command.main, "nonsense", "--help")
    self.assertEqual((status, err), (0, ""))
    self.assertContainsSubset(flags.split(), out.split())
    for text in ("usage: python -m induction_jax.", "exit status:", "  143  "):
      self.assertIn(text, out)
    for text in ("absl", "--[no]", "--probes", "==SUPPRESS=="):
      self.assertNotIn(text, out)
    self.assertIn(f"python -m {command.__name__} ", command.__doc__)

  @parameterized.parameters((train, ()), (sweep, ("--seeds=2",)))
  def test_describe(self, command, arguments):
    status, out, err = self.run_here(
      command.main, "--describe", "--config.optim.eps=1e-4", *arguments
    )
    self.assertEqual((status, err), (0, ""))
    self.assertIn("  optim.eps = 0.0001  (default 1e-08; a positive", out)
    self.assertFalse(self.workdir.exists())

  def test_list_of_commands(self):
    for arguments in ((), ("--help",)):
      done = self.module(*arguments)
      self.assertEqual((done.returncode, done.stderr), (0, ""))
      for command in (train, sweep, zoom, measure, visualize, export):
        name = command.__name__.split(".")[1]
        line = command.__doc__.splitlines()[0]
        self.assertRegex(done.stdout, f"  {name} +{line}\n")
    done = self.module("trian")
    self.assertEqual((done.returncode, done.stdout), (2, ""))
    self.assertStartsWith(
      done.stderr, "error: no command 'trian'; did you mean"
    )

  def test_a_command_by_name(self):
    done = self.module("train", f"--config={self.config}", "extra")
    self.assertEqual((done.returncode, done.stdout), (2, ""))
    self.assertEqual(done.stderr, "error: unexpected argument 'extra'\n")

  def test_a_warning_is_one_line(self):
    path = open_run(self.workdir, Config(), resume=True).config
    values = json.loads(path.read_text())
    values["task"]["colour\n"] = 1
    path.write_text(json.dumps(values))
    done = self.module("visualize", str(self.workdir))
    self.assertEqual((done.returncode, done.stdout), (2, ""))
    warning, error = done.stderr.splitlines()
    self.assertRegex(warning, "^warning: .* are ignored: task.colour$")
    self.assertRegex(error, "^error: .* has no checkpoint yet")

  def module(self, *arguments):
    return subprocess.run(
      [sys.executable, "-m", "induction_jax", *arguments],
      capture_output=True,
      text=True,
      check=False,
    )


class SpellingTest(parameterized.TestCase):
  @parameterized.parameters(
    ("--first-seed=3", "first_seed", "3"),
    ("--first_seed=3", "first_seed", "3"),
    ("-first-seed=3", "first_seed", "3"),
    ("--measurements=a_b", "measurements", "a_b"),
    ("--probes=a_b", "measurements", "a_b"),
    ("--noresume", "resume", False),
    ("--no-resume", "resume", False),
  )
  def test_of_a_flag(self, argument, name, value):
    parser = command_line.make_parser("x", "", None)
    parser.add_argument("--first-seed")
    parser.add_argument("--measurements")
    parser.add_argument("--noresume", dest="resume", action="store_false")
    values = command_line.parse(parser, ["x", argument])
    self.assertEqual(getattr(values, name), value)


class SettingsTest(EntryPointTest):
  """The ways in which a command line may set a setting."""

  def read(self, *arguments):
    parser = command_line.make_parser("train", "", None)
    command_line.add_config_flag(parser)
    argv = ["train", f"--config={self.config}", *arguments]
    return command_line.config_from(command_line.parse(parser, argv))

  @parameterized.parameters(
    (("--config.model.n_layers=3",), "model.n_layers", 3),
    (("--config.model.n_layers", "3"), "model.n_layers", 3),
    (("-config.model.n_layers", "3"), "model.n_layers", 3),
    (("--config.seed=1", "--config.seed=7"), "seed", 7),
    (("--config.seed=7",), "seed", 7),
    (("--config.optim.eps=1",), "optim.eps", 1.0),
    (("--config.model.smeared_keys",), "model.smeared_keys", True),
    (("--config.model.smeared_keys=True",), "model.smeared_keys", True),
    (("--noconfig.ablation.pairs",), "ablation.pairs", False),
    (("--config.ablation.pairs=0",), "ablation.pairs", False),
    (("--config.intervention.freeze=qk 0.1",), "intervention.freeze", "qk 0.1"),
  )
  def test_sets(self, arguments, name, value):
    found = value_of(self.read(*arguments), name)
    self.assertEqual(found, value)
    self.assertIs(type(found), type(value))


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


if __name__ == "__main__":
  absltest.main()
