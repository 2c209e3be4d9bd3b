"""A run on disk: where its files are, and whose run it is."""

import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax

from induction_jax.config import (
  Config,
  ConfigError,
  differing_leaves,
  make_config,
  to_dict,
)
from induction_jax.storage.history import replace_text

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


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
    """Of a seed of a sweep: where it stopped, if it did."""
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
  learning rate does not depend on it. Settings of the figures may change.

  Args:
    root: the directory.
    config: what is to be run.
    resume: whether an existing run may be continued.

  Raises:
    ConfigError: if the directory holds something else, and nothing is
      written, or if it cannot be written.
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
  elif root.exists() and any(root.iterdir()):
    raise ConfigError(
      f"--workdir {root} is not empty and holds no run (no config.json)"
    )
  root.mkdir(parents=True, exist_ok=True)
  write_json(run.config, to_dict(config))
  if not run.environment.exists():
    write_json(run.environment, describe_environment())
  return run


def load_run(root: Path) -> tuple[RunDirectory, Config]:
  """Opens an existing run to read it.

  Raises:
    ConfigError: if the directory holds no run.
  """
  run = RunDirectory(root)
  if not run.config.exists():
    raise ConfigError(f"{root} holds no run (no config.json)")
  return run, make_config(read_json(run.config))


def write_json(path: Path, values: Any) -> None:
  """Writes JSON whole, then renames it into place."""
  replace_text(path, json.dumps(values, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
  """Reads JSON.

  Raises:
    ConfigError: if the file is not JSON.
  """
  try:
    return json.loads(path.read_text(encoding="utf-8"))
  except (ValueError, RecursionError) as error:
    raise ConfigError(f"{path} is not JSON: {error}") from error


def describe_environment() -> dict[str, Any]:
  """Versions and device, for environment.json."""
  return {
    "python": platform.python_version(),
    "platform": platform.platform(),
    "packages": {name: version(name) for name in PACKAGES},
    "devices": [str(device) for device in jax.devices()],
    "key_implementation": str(jax.random.key_impl(jax.random.key(0))),
    "command": sys.argv,
  }


def _check_same_run(run: RunDirectory, config: Config) -> None:
  _, stored = load_run(run.root)
  different = set(differing_leaves(stored, config)) - {"report.format"}
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
