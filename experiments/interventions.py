r"""What an induction head needs: every config of the question, every seed.

  python -m experiments.interventions runs/interventions
  python -m experiments.interventions runs/interventions --seeds 0 \
    --configs quick clamp_previous_token

From the repository's root. Runs that are finished are not repeated, and a run
cut short goes on. Spectra are left out: a run has behaviour every 10 steps, and
the ablations that the verdict takes at its end. Prints a Markdown table of the
runs and one of the configs, and writes both to results.json.
"""

import argparse
import importlib
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import jax

from induction_jax.config import Config, make_config
from induction_jax.report.findings import find
from induction_jax.report.write import write_summary
from induction_jax.run.experiment import make_experiment
from induction_jax.run.loop import run
from induction_jax.run.results import write_results
from induction_jax.run.timing import Cost
from induction_jax.storage.documents import read_json
from induction_jax.storage.run_directory import open_run, write_json

CONFIGS = (
  "quick",
  "one_layer",
  "smeared_keys",
  "clamp_previous_token",
  "forbid_previous_token",
  "freeze_first_qk",
  "project_off",
  "project_onto",
)
SEEDS = (0, 1, 2, 3, 4)


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument("root", type=Path)
  parser.add_argument("--configs", nargs="+", default=CONFIGS)
  parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
  chosen = parser.parse_args()
  # Seeds of a config are one program: compile it once.
  programs = str(chosen.root.absolute() / "programs")
  jax.config.update("jax_compilation_cache_dir", programs)
  rows = []
  for name in chosen.configs:
    for seed in chosen.seeds:
      found = run_once(name, seed, chosen.root / f"{name}_{seed}")
      rows.append({"config": name, "seed": seed} | found)
      print(f"{name}, seed {seed}: {found}", file=sys.stderr, flush=True)
  groups = [summarise(name, rows) for name in chosen.configs]
  write_json(chosen.root / "results.json", {"runs": rows, "configs": groups})
  print_table(rows)
  print()
  print_table(groups)


def load_config(name: str, seed: int) -> Config:
  """A config of the package at one seed, measured by its behaviour alone."""
  config = importlib.import_module(f"configs.{name}").get_config()
  config.seed = seed
  config.circuits.interval = config.train.num_steps
  config.spectra.eigen_interval = 0
  config.checkpoint.interval = config.train.num_steps // 4
  config.checkpoint.log_spaced = False
  return make_config(config.to_dict())


def run_once(name: str, seed: int, root: Path) -> dict[str, Any]:
  """What a run found; the run itself only if it is not finished."""
  config = load_config(name, seed)
  directory = open_run(root, config, resume=True)
  if not directory.summary.exists():
    started = time.perf_counter()
    experiment = make_experiment(config)
    cost = Cost(directory, started)
    run(experiment, directory, cost=cost)
    results = write_results(experiment, directory)
    cost.save()
    write_summary(directory, results, find(results))
  return outcome(read_json(directory.summary))


def outcome(summary: dict[str, Any]) -> dict[str, Any]:
  """The columns of a run, from its summary.json."""
  transition, heads = summary["transition"], summary["heads"]
  return {
    "induction head": summary["verdict"]["has_induction_head"],
    "status": transition["status"],
    "midpoint": transition["midpoint"],
    "accuracy": summary["final"]["induction_accuracy"],
    "prefix matching": heads["induction"]["prefix_matching"],
    "previous token": heads["previous_token"]["previous_token"],
    "seconds": summary["cost"]["wall_seconds"],
  }


def summarise(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
  """One line for all seeds of a config: counts, medians and ranges."""
  rows = [row for row in rows if row["config"] == name]
  midpoints = [row["midpoint"]["estimate"] for row in rows if row["midpoint"]]
  return {
    "config": name,
    "induction heads": f"{sum(row['induction head'] for row in rows)} of "
    f"{len(rows)}",
    "transitions": f"{len(midpoints)} of {len(rows)}",
    "midpoint": spread(midpoints, ".0f"),
    "accuracy": spread([row["accuracy"] for row in rows], ".3f"),
    "prefix matching": spread([row["prefix matching"] for row in rows], ".2f"),
    "previous token": spread([row["previous token"] for row in rows], ".2f"),
    "seconds": spread([row["seconds"] for row in rows], ".0f"),
  }


def spread(values: list[float], form: str) -> str:
  """Median and range, `-` where there is nothing."""
  if not values:
    return "-"
  low, middle, high = min(values), statistics.median(values), max(values)
  return f"{middle:{form}} ({low:{form}} to {high:{form}})"


def print_table(rows: list[dict[str, Any]]) -> None:
  """Rows of equal keys as Markdown."""
  print("| " + " | ".join(rows[0]) + " |")
  print("|" + "---|" * len(rows[0]))
  for row in rows:
    print("| " + " | ".join(cell(value) for value in row.values()) + " |")


def cell(value: Any) -> str:
  """A value of a table: yes or no, a number, or an interval."""
  if value is None:
    return "-"
  if isinstance(value, bool):
    return "yes" if value else "no"
  if isinstance(value, float):
    return f"{value:.3g}"
  if isinstance(value, dict):
    shown = (f"{value[k]:.0f}" for k in ("estimate", "low", "high"))
    return "{} [{}, {}]".format(*shown)
  return str(value)


if __name__ == "__main__":
  main()
