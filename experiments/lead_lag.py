r"""Does curvature move before the induction head forms? Many seeds, controls.

  python experiments/lead_lag.py runs/lead_lag --json experiments/results/lead_lag.json

From the repository's root. Trains and measures configs/lead_lag.py over
--seeds seeds, and --controls seeds of each control, as sweeps of a few seeds in
one process for every core; what is finished is not repeated. Prints Markdown
tables of how much earlier than the onset of accuracy each event of curvature
comes, and each of the scalars that any training run has; of the same for
alarms, at one rate of false alarms in the controls; and of how many controls
had events at all. Draws leads.png in the directory.
"""

import argparse
import functools
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from typing import NamedTuple

from induction_jax.report import style
from induction_jax.report.leads import (
  Run,
  format_controls,
  format_leads,
  plot_leads,
  read_sweep,
  summarise,
)
from induction_jax.report.write import save_figure
from induction_jax.storage.run_directory import write_json

CONFIG = "configs/lead_lag.py"
# In none of them does an induction head form: too few layers, a shortcut to
# learn in its place, nothing learnt at all.
CONTROLS = {
  "one_layer": ("--config.model.n_layers=1",),
  "fixed_offset": (
    "--config.task.name=fixed_offset",
    "--config.model.position=learned",
    "--config.optim.learning_rate=1e-3",
  ),
  "untrained": ("--config.optim.learning_rate=1e-12",),
}
# Seeds of one sweep: few, so that the last ones leave no core idle for long.
SEEDS_A_SWEEP = 4


class Sweep(NamedTuple):
  """Some seeds of one setting."""

  name: str
  first_seed: int
  seeds: int
  overrides: tuple[str, ...] = ()

  def directory(self, root: Path) -> Path:
    return root / f"{self.name}_{self.first_seed:04d}"


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument("root", type=Path)
  parser.add_argument("--seeds", type=int, default=48)
  parser.add_argument("--controls", type=int, default=8)
  parser.add_argument("--json", type=Path, help="where the figures go")
  chosen = parser.parse_args()
  if chosen.seeds < 2 or chosen.controls < 1:
    parser.error("--seeds must be at least 2 and --controls at least 1")
  sweeps = {"quick": split("quick", chosen.seeds)} | {
    name: split(name, chosen.controls, overrides)
    for name, overrides in CONTROLS.items()
  }
  run_all([each for group in sweeps.values() for each in group], chosen.root)
  runs = {
    name: [run for e in group for run in read_sweep(e.directory(chosen.root))]
    for name, group in sweeps.items()
  }
  report(runs.pop("quick"), runs, chosen.root, chosen.json)


def report(
  runs: list[Run], controls: dict[str, list[Run]], root: Path, path: Path | None
) -> None:
  """Prints the tables, writes the figures, draws the leads."""
  figures = summarise(runs, controls)
  print(f"transitions: {figures['n_seeds']} of {figures['n_trained']} seeds\n")
  for title in ("events", "alarms", "alarms_before_gradient_norm"):
    print(format_leads(title.replace("_", " "), figures[title]) + "\n")
  print(format_controls(figures["controls"]))
  if path:
    write_json(path, figures)
  with style.paper_style():
    save_figure(plot_leads(runs, figures), root / "leads.png")


def split(
  name: str, seeds: int, overrides: tuple[str, ...] = ()
) -> list[Sweep]:
  """The sweeps that together are so many seeds of a setting."""
  return [
    Sweep(name, first, min(SEEDS_A_SWEEP, seeds - first), overrides)
    for first in range(0, seeds, SEEDS_A_SWEEP)
  ]


def run_all(sweeps: list[Sweep], root: Path) -> None:
  """Runs the sweeps that are not finished, one at a time on every core."""
  root.mkdir(parents=True, exist_ok=True)
  cores: Queue[int] = Queue()
  for core in usable_cores():
    cores.put(core)
  with ThreadPoolExecutor(cores.qsize()) as pool:
    # The list, so that the first failure is raised here.
    list(pool.map(functools.partial(run_once, root=root, cores=cores), sweeps))


def usable_cores() -> list[int]:
  """Those that this process may use, where the system tells."""
  if hasattr(os, "sched_getaffinity"):
    return sorted(os.sched_getaffinity(0))
  return list(range(os.cpu_count() or 1))


def run_once(sweep: Sweep, root: Path, cores: Queue[int]) -> None:
  """One sweep to its end, on a core of its own.

  Two programs of one thread use two cores better than one of two threads:
  most operations at this size are too short to share.
  """
  directory = sweep.directory(root)
  if (directory / "summary.json").exists():
    return
  core = cores.get()
  pin = ["taskset", "-c", str(core)] if shutil.which("taskset") else []
  command = [
    *(*pin, sys.executable, "-m", "induction_jax.sweep", "--config", CONFIG),
    *("--seeds", str(sweep.seeds), "--first_seed", str(sweep.first_seed)),
    *("--workdir", str(directory), *sweep.overrides),
  ]
  # Sweeps of a setting are one program: compile it once.
  programs = {"JAX_COMPILATION_CACHE_DIR": str((root / "programs").absolute())}
  try:
    with open(f"{directory}.log", "a") as log:
      subprocess.run(
        command,
        env=os.environ | programs,
        stdout=log,
        stderr=subprocess.STDOUT,
        check=True,
      )
  finally:
    cores.put(core)
  print(f"finished {directory}", file=sys.stderr, flush=True)


if __name__ == "__main__":
  main()
