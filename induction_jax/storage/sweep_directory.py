"""The directory of a sweep: a run directory for each seed, and common files."""

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
from induction_jax.storage.environment import note_environment
from induction_jax.storage.files import (
  check_fields,
  check_tree,
  read_object,
  write_json,
)
from induction_jax.storage.run_directory import RunDirectory, defining


class SweepPlan(NamedTuple):
  """Which seeds are trained, and how.

  Attributes:
    seeds: their number.
    first_seed: the seeds are consecutive from here.
    group: how many are trained at once; a divisor of `seeds`.
    mapping: how a program of one seed is mapped over those of a group.
  """

  seeds: int
  first_seed: int
  group: int
  mapping: str

  def groups(self) -> list[range]:
    """The seeds of each group."""
    end = self.first_seed + self.seeds
    firsts = range(self.first_seed, end, self.group)
    return [range(first, first + self.group) for first in firsts]


class SweepDirectory:
  """Paths of the files of one sweep."""

  def __init__(self, root: Path):
    self.root = root
    self.sweep = root / "sweep.json"
    self.environment = root / "environment.json"
    self.results = root / "results.nc"
    self.summary = root / "summary.json"
    self.figures = root / "figures"

  def seed(self, seed: int) -> RunDirectory:
    """The run directory of one seed."""
    return RunDirectory(self.root / f"seed_{seed:04d}")

  def group(self, seeds: Sequence[int]) -> RunDirectory:
    """The directory of what seeds that are trained together share."""
    return RunDirectory(
      self.root / "groups" / f"{seeds[0]:04d}_{seeds[-1]:04d}"
    )


def read_plan(root: Path) -> SweepPlan | None:
  """Reads the plan of the sweep in a directory; None if there is no sweep.

  Raises:
    ConfigError: if sweep.json holds anything else.
  """
  path = SweepDirectory(root).sweep
  values = read_object(path) if path.exists() else {}
  if "plan" not in values:
    return None
  kinds = {"seeds": int, "first_seed": int, "group": int, "mapping": str}
  plan = check_fields(values["plan"], f"{path}: plan", kinds)
  if not plan["group"] or plan["seeds"] % plan["group"]:
    raise ConfigError(f"{path}: plan: group must divide seeds")
  return SweepPlan(*(plan[name] for name in SweepPlan._fields))


def open_sweep(root: Path, config: Config, plan: SweepPlan) -> SweepDirectory:
  """Makes a new sweep's directory, or opens the one that holds this sweep.

  Raises:
    ConfigError: if the directory holds something else (nothing is written
      then), or if it cannot be written.
  """
  return _open(root, {"config": to_json(config), "plan": plan._asdict()})


def open_grid(
  root: Path, config: Config, over: dict[str, list[Any]]
) -> SweepDirectory:
  """Makes or opens the directory of a grid: a sweep for each of its settings.

  Args:
    root: the directory.
    config: the config that the settings change.
    over: the values of each config leaf that varies.

  Raises:
    ConfigError: if the directory holds something else (nothing is written
      then), or if it cannot be written.
  """
  return _open(root, {"config": to_json(config), "over": over})


def _open(root: Path, what: dict[str, Any]) -> SweepDirectory:
  directory = SweepDirectory(root)
  try:
    if directory.sweep.exists():
      check_tree(root)
      _check_same(root, read_object(directory.sweep, config=dict), what)
    elif root.exists() and any(x.name != lock.NAME for x in root.iterdir()):
      raise ConfigError(
        f"--workdir {root} is not empty and holds no sweep (no sweep.json)"
      )
    root.mkdir(parents=True, exist_ok=True)
    with lock.hold(root):
      write_json(directory.sweep, what)
      note_environment(directory.environment)
  except OSError as error:
    raise ConfigError(f"--workdir {root} cannot be used: {error}") from error
  return directory


def _check_same(root: Path, stored: Any, what: dict[str, Any]) -> None:
  configs = (
    read_config(each["config"], strict=True) for each in (stored, what)
  )
  different = defining(differing_leaves(*configs))
  for part in ("plan", "over"):
    old, new = (
      check_fields(x.get(part, {}), f"{root}: {part}", {})
      for x in (stored, what)
    )
    names = sorted({*old, *new})
    different += [name for name in names if old.get(name) != new.get(name)]
  if different:
    raise ConfigError(
      f"--workdir {root} holds another sweep (it differs in "
      f"{', '.join(different)}); choose another directory"
    )
