"""The directory of one run: where its files are, and which run it holds."""

from collections.abc import Sequence
from pathlib import Path

from induction_jax.config import (
  Config,
  ConfigError,
  differing_leaves,
  read_config,
  to_json,
)
from induction_jax.storage import lock
from induction_jax.storage.environment import note_environment, warn_once
from induction_jax.storage.files import (
  check_fields,
  check_tree,
  read_json,
  read_object,
  write_json,
)

MAX_SECONDS = 1e10  # three centuries


class RunDirectory:
  """Paths of the files of one run."""

  def __init__(self, root: Path):
    self.root = root
    self.config = root / "config.json"
    self.environment = root / "environment.json"
    self.history = root / "history.jsonl"
    self.remeasured = root / "remeasured.jsonl"  # by the command measure
    self.zoomed = root / "zoomed.jsonl"  # by the command zoom
    self.results = root / "results.nc"
    self.summary = root / "summary.json"
    self.cost = root / "cost.json"
    self.diverged = root / "diverged.json"  # if the run did not stay finite
    self.checkpoints = root / "checkpoints"
    self.eigenvectors = root / "eigenvectors"
    self.figures = root / "figures"


def open_run(root: Path, config: Config, resume: bool) -> RunDirectory:
  """Makes a new run directory, or opens the one that holds a config's run.

  An existing run may be continued for more steps where the learning rate does
  not depend on `train.num_steps`, and with other settings of the figures and of
  the devices.

  Args:
    root: the directory.
    config: the run's config.
    resume: whether an existing run may be continued.

  Raises:
    ConfigError: if the directory holds something else or is in use (nothing is
      written then), or if it cannot be written.
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


def load_run(
  root: Path, *, strict: bool = False
) -> tuple[RunDirectory, Config]:
  """Opens an existing run, perhaps of an earlier version, to read it.

  Args:
    root: the directory.
    strict: whether an unknown setting is an error, as it must be where the run
      is continued; otherwise it is a warning.

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


def read_cost(path: Path) -> dict[str, float]:
  """Reads cost.json: seconds spent, by what they were spent on.

  Raises:
    OSError: if the file is missing.
    ConfigError: if it holds anything else.
  """
  cost = read_object(path)
  check_fields(cost, str(path), dict.fromkeys(cost, (int, float)))
  for name, seconds in cost.items():
    if not 0 <= seconds <= MAX_SECONDS:
      raise ConfigError(f"{path}: {name} must be seconds, got {seconds}")
  return cost


def defining(leaves: Sequence[str]) -> list[str]:
  """The config leaves that define a run: all but those of figures and devices.

  Other devices round differently, as another machine does.
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
    warn_once(f"{', '.join(moved)} differs from before: bits may differ")
