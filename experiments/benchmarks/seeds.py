r"""Many seeds in one program against the same seeds one by one, in one run.

  python experiments/benchmarks/seeds.py --seeds 8 32 --json seeds.json

Training alone, and with every probe as often as `quick` measures (one spectrum
in 50 steps), by both mappings. All on the same device, turn by turn in one
process, compared by ratios within a round, of which medians are printed;
compilation is not counted, nor is anything run but for training to compile.
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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from problem import quick_config

from induction_jax.devices.mesh import make_seeds_mesh
from induction_jax.measurements import Probe
from induction_jax.run.experiment import (
  Experiment,
  compile_experiment,
  make_pure_experiment,
)
from induction_jax.run.measuring import observe
from induction_jax.run.seeds import MAPPINGS, make_group
from induction_jax.training.state import init_state

ALONE = "one by one"
Turn = Callable[[], None]


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--seeds", type=int, nargs="+", default=[8, 32])
  parser.add_argument("--steps", type=int, default=50, help="default 50")
  parser.add_argument(
    "--rounds",
    type=int,
    nargs=2,
    default=[3, 1],
    metavar=("TRAINING", "PROBES"),
    help="default 3 1; 0 leaves it out",
  )
  parser.add_argument(
    "--mappings", nargs="+", choices=MAPPINGS, default=[*MAPPINGS]
  )
  parser.add_argument("--json", type=Path, help="where the figures go")
  options = parser.parse_args()
  if max(options.rounds) < 1 or min(options.rounds) < 0:
    parser.error("--rounds must be at least 0, and one of them at least 1")
  sys.stdout.reconfigure(line_buffering=True)  # a run takes minutes
  device = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
  print(f"{device}, load before: {os.getloadavg()[0]:.1f}")
  experiment = make_pure_experiment(quick_config())
  figures: dict[str, Any] = {"device": device, "steps": options.steps}
  for seeds in options.seeds:
    ways = line_up(experiment, seeds, options.mappings)
    figures[str(seeds)] = {
      what: race(ways, seeds, options.steps, rounds, measuring)
      for what, measuring, rounds in zip(
        ("training", "with probes"), (False, True), options.rounds
      )
      if rounds
    }
    print_figures(seeds, figures[str(seeds)])
  print(f"load after: {os.getloadavg()[0]:.1f}")
  if options.json:
    options.json.write_text(json.dumps(figures, indent=2) + "\n")


def line_up(
  experiment: Experiment, seeds: int, mappings: Sequence[str]
) -> dict[str, list[Experiment]]:
  """Compiled experiments by name, to be run one after another."""
  one = compile_experiment(experiment)
  init = jax.jit(lambda key: init_state(experiment.model, experiment.tx, key))
  mesh = make_seeds_mesh(experiment.config.mesh, seeds)
  ways = {
    ALONE: [
      one._replace(init=lambda seed=seed: init(jax.random.key(seed)))
      for seed in range(seeds)
    ]
  }
  for mapping in mappings:
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
    name: make_turns(experiments, steps, measuring)
    for name, experiments in ways.items()
  }
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


def make_turns(
  experiments: list[Experiment], steps: int, measuring: bool
) -> list[Turn]:
  """A turn of each experiment; they share their compiled programs."""
  probes = compile_probes(experiments[0]) if measuring else ()
  return [make_turn(each, probes, steps) for each in experiments]


def make_turn(
  experiment: Experiment, probes: Sequence[Probe], steps: int
) -> Turn:
  """So many steps, measured as often as the loop does."""
  state = experiment.init()
  held_out = experiment.draw(state.key)
  carries = {probe.name: probe.init_carry(state.params) for probe in probes}
  stride = min((probe.interval for probe in probes), default=steps)
  # Compiles: how many steps to take is an argument.
  state, _ = experiment.train_chunk(state, jnp.int32(1))

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


def compile_probes(experiment: Experiment) -> list[Probe]:
  """Probes whose measurements are compiled, and have not been made."""
  state = experiment.init()
  held_out = experiment.draw(state.key)
  compiled = []
  for probe in experiment.probes:
    prepare = jax.jit(probe.prepare).lower(state, held_out).compile()
    arguments = state, held_out, prepare(state, held_out)
    carry = probe.init_carry(state.params)
    measure = jax.jit(probe.measure).lower(*arguments, carry).compile()
    compiled.append(probe._replace(prepare=prepare, measure=measure))
  return compiled


def print_figures(seeds: int, figures: dict[str, Any]) -> None:
  names = list(next(iter(figures.values())))
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
