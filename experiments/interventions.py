r"""What an induction head needs: interventions on training, over seeds.

Question: does an induction head form with one layer, with smeared keys, with a
previous-token head clamped or forbidden, with frozen query-key weights, and
with updates inside or outside the sharpest directions?

  python -m experiments.interventions runs/interventions
  python -m experiments.interventions runs/interventions --seeds 0 \
    --configs quick clamp_previous_token

Finished runs are not repeated, and interrupted ones go on. Spectra are left
out: a run measures behaviour every 10 steps, and the ablations of the verdict
at its end.

Prints: a table of the runs, and one of the configs with the median and range
over seeds. Both are also in results.json of the directory.
Takes: about a minute a run on 2 CPU cores; project_off and project_onto longer.
"""

import statistics
import sys
from pathlib import Path
from typing import Any

import jax

from experiments.shared.networks import read_config
from experiments.shared.reporting import Cell, make_parser, make_table, report
from experiments.verdicts import format_interval
from induction_jax import train
from induction_jax.storage.files import read_json, write_json

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
# Formats of the columns that are summarised by median and range.
SPREADS = {
  "midpoint": ".0f",
  "accuracy": ".3f",
  "prefix matching": ".2f",
  "previous token": ".2f",
  "seconds": ".0f",
}


def main(argv: list[str] | None = None) -> None:
  parser = make_parser(__doc__)
  parser.add_argument("root", type=Path, help="directory of the runs")
  parser.add_argument("--configs", nargs="+", default=CONFIGS)
  parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
  options = parser.parse_args(argv)
  # Seeds of a config are one program, which is then compiled once.
  programs = str(options.root.absolute() / "programs")
  jax.config.update("jax_compilation_cache_dir", programs)
  runs = []
  for name in options.configs:
    for seed in options.seeds:
      found = run_once(name, seed, options.root / f"{name}_{seed}")
      runs.append({"config": name, "seed": seed} | found)
      print(f"{name}, seed {seed}: {found}", file=sys.stderr, flush=True)
  configs = [summarise(name, runs) for name in options.configs]
  write_json(options.root / "results.json", {"runs": runs, "configs": configs})
  shown = [row | {"midpoint": format_interval(row["midpoint"])} for row in runs]
  tables = {"runs": make_table(shown), "configs": make_table(configs)}
  report(tables, options.json)


def run_once(name: str, seed: int, root: Path) -> dict[str, Any]:
  """What a run found, after running it unless it is finished."""
  if not (root / "summary.json").exists():
    num_steps = read_config(name).train.num_steps
    settings = {
      "seed": seed,
      "circuits.interval": num_steps,
      "spectra.eigen_interval": 0,
      "checkpoint.interval": num_steps // 4,
      "checkpoint.log_spaced": False,
    }
    command = ["train", f"--config={name}", f"--workdir={root}"]
    command += [f"--config.{leaf}={x}" for leaf, x in settings.items()]
    if status := train.main(command):
      sys.exit(status)
  return make_row(read_json(root / "summary.json"))


def make_row(summary: dict[str, Any]) -> dict[str, Any]:
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


def summarise(name: str, runs: list[dict[str, Any]]) -> dict[str, Cell]:
  """One row for all seeds of a config: counts, medians and ranges."""
  rows = [row for row in runs if row["config"] == name]
  values = {key: [row[key] for row in rows] for key in SPREADS}
  values["midpoint"] = [x["estimate"] for x in values["midpoint"] if x]
  heads = sum(row["induction head"] for row in rows)
  return {
    "config": name,
    "induction heads": f"{heads} of {len(rows)}",
    "transitions": f"{len(values['midpoint'])} of {len(rows)}",
    **{key: format_spread(values[key], form) for key, form in SPREADS.items()},
  }


def format_spread(values: list[float], form: str) -> str | None:
  """Median and range, None without values."""
  if not values:
    return None
  low, middle, high = min(values), statistics.median(values), max(values)
  return f"{middle:{form}} ({low:{form}} to {high:{form}})"


if __name__ == "__main__":
  main()
