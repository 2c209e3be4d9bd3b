"""Many seeds in one program against the same seeds one by one.

Question: do N seeds train and measure faster as one program, by map or by vmap?

  python -m experiments.scaling.seeds --seeds 8 32 --json seeds.json

Seeds of quick are trained alone, and with every measurement as often as quick
takes it (one spectrum in 50 steps). All ways share the devices and take turns
in one process; ratios are within a round. Compilation is not counted, and
nothing is written to disk. Several devices share the seeds; on a CPU two come
from XLA_FLAGS=--xla_force_host_platform_device_count=2.

Prints: seed-steps a second of each way, and the ratio to one by one.
Takes: some 10 minutes for the default on 2 CPU cores.
"""

import os
import statistics
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from experiments.shared.networks import read_config
from experiments.shared.reporting import Cell, Table, make_parser, report
from experiments.shared.timing import median_ratio, time_in_turn
from induction_jax.devices.mesh import make_seeds_mesh
from induction_jax.measurements import Measurement
from induction_jax.run.experiment import (
  Experiment,
  compile_experiment,
  make_pure_experiment,
)
from induction_jax.run.loop import measure
from induction_jax.run.seeds import MAPPINGS, make_group
from induction_jax.run.snapshots import init_snapshot
from induction_jax.training.state import init_state

ALONE = "one by one"


def main(argv: list[str] | None = None) -> None:
  parser = make_parser(__doc__)
  parser.add_argument("--seeds", type=int, nargs="+", default=[8, 32])
  parser.add_argument("--steps", type=int, default=50, help="default 50")
  parser.add_argument(
    "--rounds",
    type=int,
    nargs=2,
    default=[3, 1],
    metavar=("TRAINING", "MEASURED"),
    help="default 3 1; 0 leaves one out",
  )
  parser.add_argument(
    "--mappings", nargs="+", choices=MAPPINGS, default=[*MAPPINGS]
  )
  options = parser.parse_args(argv)
  if max(options.rounds) < 1 or min(options.rounds) < 0:
    parser.error("--rounds must be at least 0, and one of them at least 1")
  sys.stdout.reconfigure(line_buffering=True)
  device = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
  print(f"{device}, load before: {os.getloadavg()[0]:.1f}")
  experiment = make_pure_experiment(read_config("quick"))
  figures: dict[str, Any] = {"device": device, "steps": options.steps}
  rows: list[list[Cell]] = []
  for seeds in options.seeds:
    ways = line_up(experiment, seeds, options.mappings)
    figures[str(seeds)] = {}
    for name, rounds in zip(("training", "with measurements"), options.rounds):
      if not rounds:
        continue
      found = compare(ways, seeds, options.steps, rounds, name != "training")
      figures[str(seeds)][name] = found
      rows.append([f"{seeds} seeds, {name}", *map(_format, found.values())])
      print(rows[-1])
  print(f"load after: {os.getloadavg()[0]:.1f}")
  columns = ["", ALONE, *options.mappings]
  table = Table(columns, [""] * len(columns), rows)
  report({"throughput": table}, options.json, figures)


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


def compare(
  ways: dict[str, list[Experiment]],
  seeds: int,
  steps: int,
  rounds: int,
  measured: bool,
) -> dict[str, Any]:
  """Seed-steps a second of each way, and ratios to one by one."""
  turns = {
    name: make_turns(experiments, steps, measured)
    for name, experiments in ways.items()
  }
  seconds = time_in_turn(turns, rounds)
  return {
    name: {
      "seed_steps_per_second": seeds * steps / statistics.median(spent),
      "speedup": median_ratio(seconds[ALONE], spent),
    }
    for name, spent in seconds.items()
  }


def make_turns(
  experiments: list[Experiment], steps: int, measured: bool
) -> Callable[[], None]:
  """One turn of each experiment; they share their compiled programs."""
  turns = [make_turn(each, steps, measured) for each in experiments]
  turns[0](1)  # compiles

  def run_all() -> None:
    for turn in turns:
      turn(steps)

  return run_all


def make_turn(
  experiment: Experiment, steps: int, measured: bool
) -> Callable[[int], None]:
  """Training steps, measured as often as a run measures."""
  snapshot = init_snapshot(experiment)
  batches = experiment.draw(snapshot.state.key)
  intervals = [x.interval for x in experiment.measurements if x.interval]
  stride = min(intervals) if measured else steps

  def turn(count: int) -> None:
    """Takes `count` steps; a single one is followed by every measurement."""
    nonlocal snapshot
    chunk = min(stride, count)
    for step in range(chunk, count + 1, chunk):
      state, metrics = experiment.train_chunk(snapshot.state, jnp.int32(chunk))
      jax.block_until_ready(metrics)
      snapshot = snapshot._replace(state=state)
      if measured:
        at = 0 if count == 1 else step
        snapshot = measure(
          experiment, snapshot, batches, partial(_is_due, at), _ignore
        )

  return turn


def _is_due(step: int, measurement: Measurement, _: Any) -> bool:
  return bool(measurement.interval) and step % measurement.interval == 0


def _ignore(measurement: Measurement, arrays: Any) -> None:
  del measurement, arrays  # nothing is written to disk


def _format(found: dict[str, float]) -> str:
  return f"{found['seed_steps_per_second']:.1f} ({found['speedup']:.2f})"


if __name__ == "__main__":
  main()
