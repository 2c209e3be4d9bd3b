r"""Many seeds in one program against the same seeds one by one, in one run.

  python experiments/benchmarks/seeds.py --seeds 8 32 --json seeds.json

Training alone, and with every probe as often as `quick` measures, by both
mappings. All on the same device, turn by turn in one process, compared by
ratios within a round, of which medians are printed; compilation is not counted.
With several devices (on a CPU, two are had by
XLA_FLAGS=--xla_force_host_platform_device_count=2) the seeds are shared among
them. What is written to disk is left out: it is the same for all.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from problem import quick_config

from induction_jax.loop import (
  Experiment,
  compile_experiment,
  make_pure_experiment,
  observe,
)
from induction_jax.seeds import MAPPINGS, make_group, make_mesh
from induction_jax.state import init_state

ALONE = "one by one"
Turn = Callable[[], None]


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--seeds", type=int, nargs="+", default=[8, 32])
  parser.add_argument("--steps", type=int, default=50, help="default 50")
  parser.add_argument("--rounds", type=int, default=3, help="default 3")
  parser.add_argument("--json", type=Path, help="where the figures go")
  options = parser.parse_args()
  sys.stdout.reconfigure(line_buffering=True)  # a run takes minutes
  device = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
  print(f"{device}, load before: {os.getloadavg()[0]:.1f}")
  experiment = make_pure_experiment(quick_config())
  figures: dict[str, Any] = {"device": device, "steps": options.steps}
  for seeds in options.seeds:
    ways = line_up(experiment, seeds)
    figures[str(seeds)] = {
      what: race(ways, seeds, options.steps, options.rounds, measuring)
      for what, measuring in (("training", False), ("with probes", True))
    }
    print_figures(seeds, figures[str(seeds)])
  print(f"load after: {os.getloadavg()[0]:.1f}")
  if options.json:
    options.json.write_text(json.dumps(figures, indent=2) + "\n")


def line_up(experiment: Experiment, seeds: int) -> dict[str, list[Experiment]]:
  """Compiled experiments by name, to be run one after another."""
  one = compile_experiment(experiment)
  init = jax.jit(lambda key: init_state(experiment.model, experiment.tx, key))
  mesh = make_mesh(seeds)
  ways = {
    ALONE: [
      one._replace(init=lambda seed=seed: init(jax.random.key(seed)))
      for seed in range(seeds)
    ]
  }
  for mapping in MAPPINGS:
    ways[mapping] = [make_group(experiment, mapping, mesh)(range(seeds))]
  return ways


def race(
  ways: dict[str, list[Experiment]],
  seeds: int,
  steps: int,
  rounds: int,
  measuring: bool,
) -> dict[str, Any]:
  """Seed-steps a second of each way, and ratios to one by one."""
  turns = {
    name: [make_turn(experiment, steps, measuring) for experiment in all_]
    for name, all_ in ways.items()
  }
  for each in turns.values():  # compiles
    each[0]()
  seconds: dict[str, list[float]] = {name: [] for name in turns}
  for _ in range(rounds):
    for name, each in turns.items():
      start = time.perf_counter()
      for turn in each:
        turn()
      seconds[name].append(time.perf_counter() - start)
  return {
    name: {
      "seed_steps_per_second": seeds * steps / statistics.median(spent),
      "speedup": statistics.median(
        alone / own for alone, own in zip(seconds[ALONE], spent)
      ),
    }
    for name, spent in seconds.items()
  }


def make_turn(experiment: Experiment, steps: int, measuring: bool) -> Turn:
  """So many steps, measured as often as the loop does."""
  state = experiment.init()
  held_out = experiment.draw(state.key)
  probes = experiment.probes if measuring else ()
  carries = {probe.name: probe.init_carry(state.params) for probe in probes}
  stride = min((probe.interval for probe in probes), default=steps)

  def turn() -> None:
    nonlocal state
    for step in range(stride, steps + 1, stride):
      state, metrics = experiment.train_chunk(state, jnp.int32(stride))
      jax.block_until_ready(metrics)
      for probe in probes:
        if step % probe.interval == 0:
          _, carry = observe(probe, state, held_out, carries[probe.name])
          carries[probe.name] = carry

  return turn


def print_figures(seeds: int, figures: dict[str, Any]) -> None:
  names = list(figures["training"])
  print(f"\n{seeds} seeds: seed-steps a second (over one by one)\n")
  print(f"| | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
  for what, found in figures.items():
    cells = [
      f"{each['seed_steps_per_second']:.1f} ({each['speedup']:.2f})"
      for each in found.values()
    ]
    print(f"| {what} | {' | '.join(cells)} |")


if __name__ == "__main__":
  main()
