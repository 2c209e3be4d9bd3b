"""A run on disk: where its files are, and whose run it is."""

import functools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from induction_jax.config import (
  Config,
  ConfigError,
  differing_leaves,
  read_config,
  to_json,
)
from induction_jax.storage import lock
from induction_jax.storage.documents import (
  check_fields,
  check_tree,
  read_json,
  read_object,
)
from induction_jax.storage.environment import (
  describe_environment,
  differences,
  newest,
)
from induction_jax.storage.files import replace_text

MOST_SECONDS = 1e10  # three centuries


class RunDirectory(NamedTuple):
  """Paths of one run."""

  root: Path

  @property
  def config(self) -> Path:
    return self.root / "config.json"

  @property
  def environment(self) -> Path:
    return self.root / "environment.json"

  @property
  def history(self) -> Path:
    return self.root / "history.jsonl"

  @property
  def remeasured(self) -> Path:
    return self.root / "remeasured.jsonl"

  @property
  def zoomed(self) -> Path:
    return self.root / "zoomed.jsonl"

  @property
  def results(self) -> Path:
    return self.root / "results.nc"

  @property
  def summary(self) -> Path:
    return self.root / "summary.json"

  @property
  def cost(self) -> Path:
    return self.root / "cost.json"

  @property
  def diverged(self) -> Path:
    """Where the run stopped, if its numbers did not stay finite."""
    return self.root / "diverged.json"

  @property
  def checkpoints(self) -> Path:
    return self.root / "checkpoints"

  @property
  def eigenvectors(self) -> Path:
    return self.root / "eigenvectors"

  @property
  def figures(self) -> Path:
    return self.root / "figures"


def open_run(root: Path, config: Config, resume: bool) -> RunDirectory:
  """Makes a new run directory, or opens the one of this very config.

  A run may grow: `train.num_steps` may exceed the stored one where the
  learning rate does not depend on it. Settings of the figures and of the
  devices may change.

  Args:
    root: the directory.
    config: what is to be run.
    resume: whether an existing run may be continued.

  Raises:
    ConfigError: if the directory holds something else or is in use, and
      nothing is written, or if it cannot be written.
  """
  try:
    return _open_run(RunDirectory(root), config, resume)
  except OSError as error:
    raise ConfigError(f"--workdir {root} cannot be used: {error}") from error


def _open_run(run: RunDirectory, config: Config, resume: bool) -> RunDirectory:
  root = run.root
  if root.exists() and not root.is_dir():
    raise ConfigError(f"--workdir {root} is not a directory")
  if run.config.exists():
    if not resume:
      raise ConfigError(
        f"--workdir {root} already holds a run; choose another directory or "
        "leave out --noresume"
      )
    _check_same_run(run, config)
  elif root.exists() and any(x.name != lock.NAME for x in root.iterdir()):
    raise ConfigError(
      f"--workdir {root} is not empty and holds no run (no config.json)"
    )
  root.mkdir(parents=True, exist_ok=True)
  with lock.hold(root):
    write_json(run.config, to_json(config))
    note_environment(run.environment)
  return run


def note_environment(path: Path) -> None:
  """Writes environment.json, or adds to it where things have changed.

  One line on standard error then says what has: a run that goes on elsewhere
  may go on with other bits.
  """
  now = describe_environment()
  if not path.exists():
    write_json(path, now)
    return
  stored = read_environment(path)
  if changed := differences(newest(stored), now):
    stored["resumed"] = [*stored.get("resumed", []), now]
    write_json(path, stored)
    _warn_once(f"{changed}: bits may differ")


@functools.cache
def _warn_once(text: str) -> None:
  """Of the many seeds of a sweep, the first says it."""
  print(f"warning: {text}", file=sys.stderr)


def changed_environment(path: Path) -> str:
  """How this machine differs from a run's where bits may; "" if nowhere."""
  if not path.exists():
    return "environment.json is missing"
  return differences(newest(read_environment(path)), describe_environment())


def read_environment(path: Path) -> dict[str, Any]:
  """An environment.json, and those that were added to it.

  Raises:
    OSError: if there is none.
    ConfigError: if it holds anything else.
  """
  stored = read_object(path)
  if "resumed" in stored:
    check_fields(stored, str(path), {"resumed": list})
    for each in stored["resumed"]:
      check_fields(each, f"{path}: resumed", {})
  return stored


def load_run(
  root: Path, *, strict: bool = False
) -> tuple[RunDirectory, Config]:
  """Opens an existing run, perhaps of an earlier version, to read it.

  Args:
    root: the directory.
    strict: whether a setting that this version does not know is an error, as
      for going on with the run; otherwise it is a warning.

  Raises:
    ConfigError: if the directory holds no run, or links that lead outside.
  """
  run = RunDirectory(root)
  if not run.config.exists():
    raise ConfigError(f"{root} holds no run (no config.json)")
  check_tree(root)
  try:
    return run, read_config(read_json(run.config), strict=strict)
  except ConfigError as error:
    raise ConfigError(f"{run.config}: {error}") from error


def write_json(path: Path, values: Any) -> None:
  """Writes JSON whole, then renames it into place."""
  replace_text(path, json.dumps(values, indent=2, allow_nan=False) + "\n")


def read_cost(path: Path) -> dict[str, float]:
  """The seconds in a cost.json, by what they were spent on.

  Raises:
    OSError: if there is none.
    ConfigError: if it holds anything else.
  """
  cost = read_object(path)
  check_fields(cost, str(path), dict.fromkeys(cost, (int, float)))
  for name, seconds in cost.items():
    if not 0 <= seconds <= MOST_SECONDS:
      raise ConfigError(f"{path}: {name} must be seconds, got {seconds}")
  return cost


def defining(leaves: Sequence[str]) -> list[str]:
  """Those of the leaves that make a run another: not of figures or devices.

  Other devices round otherwise, as another machine does.
  """
  return [x for x in leaves if not x.startswith(("report.", "mesh."))]


def _check_same_run(run: RunDirectory, config: Config) -> None:
  _, stored = load_run(run.root, strict=True)
  leaves = differing_leaves(stored, config)
  different = set(defining(leaves))
  if (
    config.optim.schedule == "constant"
    and config.train.num_steps > stored.train.num_steps
  ):
    different -= {"train.num_steps"}
  if different:
    names = ", ".join(sorted(different))
    raise ConfigError(
      f"--workdir {run.root} holds the run of another config (it differs in "
      f"{names}); choose another directory"
    )
  if moved := [name for name in leaves if name.startswith("mesh.")]:
    _warn_once(f"{', '.join(moved)} differs from before: bits may differ")
