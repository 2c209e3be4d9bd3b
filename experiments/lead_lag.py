"""Does curvature move before the induction head forms?

Question: by how many steps do the events of the Hessian's spectrum, and of the
scalars that every training run has, come before the onset of accuracy?

  python -m experiments.lead_lag runs/lead_lag --json lead_lag.json

Trains configs/lead_lag.py for --seeds seeds, and --controls seeds of each
control, in which no induction head can form. Sweeps of a few seeds run on one
core each; finished ones are not repeated. Draws leads.png in the directory.

Prints: the lead of every event over the onset of accuracy; the lead of alarms
at one false-alarm rate, over accuracy and over the gradient norm; how many
controls had which event; and every seed's dates.
Takes: 75 minutes on 2 CPU cores.
"""

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from typing import Any, NamedTuple

from experiments.shared.reporting import Table, make_parser, report
from induction_jax.report import style
from induction_jax.report.figures import save_figure
from induction_jax.report.leads import plot_leads, read_sweep, summarise_leads

CONFIG = "configs/lead_lag.py"
# Controls in which no induction head forms: with too few layers, with a
# shortcut that solves the task, and without learning.
CONTROLS = {
  "one_layer": ("--config.model.n_layers=1",),
  "fixed_offset": (
    "--config.task.name=fixed_offset",
    "--config.model.position=learned",
    "--config.optim.learning_rate=1e-3",
  ),
  "untrained": ("--config.optim.learning_rate=1e-12",),
}
# Seeds of one sweep. They are few, so that no core is idle for long at the end.
SEEDS_A_SWEEP = 4


class Sweep(NamedTuple):
  """Consecutive seeds of one setting."""

  name: str
  first_seed: int
  seeds: int
  overrides: tuple[str, ...] = ()

  def directory(self, root: Path) -> Path:
    return root / f"{self.name}_{self.first_seed:04d}"


def main(argv: list[str] | None = None) -> None:
  parser = make_parser(__doc__)
  parser.add_argument("root", type=Path, help="directory of the sweeps")
  parser.add_argument("--seeds", type=int, default=48, help="default 48")
  parser.add_argument("--controls", type=int, default=8, help="default 8")
  options = parser.parse_args(argv)
  if options.seeds < 2 or options.controls < 1:
    parser.error("--seeds must be at least 2 and --controls at least 1")
  root = options.root
  sweeps = {"quick": split("quick", options.seeds)} | {
    name: split(name, options.controls, overrides)
    for name, overrides in CONTROLS.items()
  }
  run_all([sweep for group in sweeps.values() for sweep in group], root)
  controls = {
    name: [run for x in group for run in read_sweep(x.directory(root))]
    for name, group in sweeps.items()
  }
  runs = controls.pop("quick")
  figures = summarise_leads(runs, controls)
  print(f"transitions: {figures['n_seeds']} of {figures['n_trained']} seeds")
  report(make_tables(figures), options.json)
  with style.paper_style():
    save_figure(plot_leads(runs, figures), root / "leads.png")


def make_tables(figures: Mapping[str, Any]) -> dict[str, Table]:
  """The tables of the leads, the controls and the seeds."""
  titles = ("events", "alarms", "alarms_before_gradient_norm")
  return {
    **{title: make_leads_table(title, figures[title]) for title in titles},
    "controls": make_controls_table(figures["controls"]),
    "seeds": make_seeds_table(figures["seeds"]),
  }


def make_leads_table(
  title: str, leads: Mapping[str, Mapping[str, Any]]
) -> Table:
  """One row an event; a positive lead means that the event comes first."""
  columns = (
    *(_words(title), "seeds", "median lead (steps)"),
    *("95 % interval", "p, corrected"),
  )
  rows = []
  for name, lead in leads.items():
    interval = lead["interval"] and "{:.0f} to {:.0f}".format(*lead["interval"])
    row = [lead["median_lead"], interval, lead["corrected_p_value"]]
    rows.append([_words(name), lead["n_dated"], *row])
  return Table(columns, ["", "", ".0f", "", ".2g"], rows)


def make_controls_table(controls: Mapping[str, Mapping[str, Any]]) -> Table:
  """How many runs of each control had which event."""
  counts = {
    name: {"transition": control["transitions"], **control["events"]}
    for name, control in controls.items()
  }
  rows = [
    [
      _words(event),
      *(f"{counts[x][event]} of {controls[x]['n_trained']}" for x in controls),
    ]
    for event in next(iter(counts.values()))
  ]
  return Table(["event", *controls], [""] * (1 + len(controls)), rows)


def make_seeds_table(seeds: Sequence[Mapping[str, Any]]) -> Table:
  """The steps at which each seed had its onset, events and alarms."""
  events, alarms = list(seeds[0]["events"]), list(seeds[0]["alarms"])
  columns = ["seed", "onset of accuracy", *map(_words, events)]
  columns += [f"{_words(name)}, alarm" for name in alarms]
  rows = [
    [x["seed"], x["onset"], *x["events"].values(), *x["alarms"].values()]
    for x in seeds
  ]
  return Table(columns, ["", *[".1f"] * (len(columns) - 1)], rows)


def _words(name: str) -> str:
  return name.replace("_", " ")


def split(
  name: str, seeds: int, overrides: tuple[str, ...] = ()
) -> list[Sweep]:
  """Sweeps that together have `seeds` seeds of a setting."""
  return [
    Sweep(name, first, min(SEEDS_A_SWEEP, seeds - first), overrides)
    for first in range(0, seeds, SEEDS_A_SWEEP)
  ]


def run_all(sweeps: list[Sweep], root: Path) -> None:
  """Runs the unfinished sweeps, one at a time on every core."""
  root.mkdir(parents=True, exist_ok=True)
  cores: Queue[int] = Queue()
  for core in usable_cores():
    cores.put(core)
  with ThreadPoolExecutor(cores.qsize()) as pool:
    # list() raises the first failure here.
    list(pool.map(functools.partial(run_once, root=root, cores=cores), sweeps))


def usable_cores() -> list[int]:
  """The cores that this process may use, or all where that is unknown."""
  if hasattr(os, "sched_getaffinity"):
    return sorted(os.sched_getaffinity(0))
  return list(range(os.cpu_count() or 1))


def run_once(sweep: Sweep, root: Path, cores: Queue[int]) -> None:
  """Runs one sweep to its end on a free core.

  Two programs with one thread each use two cores better than one program with
  two threads, because most operations at this size are too short to share.
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
  # Sweeps of a setting share one compiled program.
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
