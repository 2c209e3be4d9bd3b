"""Entry points as a command line would call them."""

import contextlib
import io
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

from absl.testing import parameterized

from induction_jax.commands import command_line

CONFIG = """
from tests.tiny import tiny_config

def get_config():
  return tiny_config(**{})
"""


def interrupted(*_):
  """Stands for work during which a signal comes."""
  signal.raise_signal(signal.SIGTERM)


def call(main, *arguments):
  """Exit status, standard output and standard error of an entry point."""
  out, err = io.StringIO(), io.StringIO()
  before = sys.argv
  sys.argv = ["induction_jax", *map(str, arguments)]
  try:
    with (
      contextlib.redirect_stdout(out),
      contextlib.redirect_stderr(err),
      mock.patch.object(os, "_exit", sys.exit),  # as an interrupted one ends
    ):
      command_line.run_main(main)
  except SystemExit as exit_:
    return exit_.code, out.getvalue(), err.getvalue()
  finally:
    sys.argv = before
  raise AssertionError("an entry point must exit")


class EntryPointTest(parameterized.TestCase):
  """With a directory, and in it the file of a tiny config.

  Attributes:
    settings: of that config, as tiny_config takes them.
  """

  settings: ClassVar[dict[str, Any]] = {}

  def setUp(self):
    super().setUp()
    self.root = Path(self.enter_context(tempfile.TemporaryDirectory()))
    (self.root / "configs").mkdir()
    self.config = self.root / "configs" / "tiny.py"
    self.config.write_text(CONFIG.format(self.settings))
    self.workdir = self.root / "run"

  def run_here(self, main, *arguments):
    """Calls it with the config and a workdir."""
    return call(
      main,
      f"--config={self.config}",
      f"--workdir={self.workdir}",
      *arguments,
    )
