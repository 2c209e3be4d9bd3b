"""How the time and memory of a step and of each measurement grow.

Question: with which exponents do costs grow along each axis, and do any grow
faster than expected?

  python -m experiments.scaling.growth --json growth.json --figure growth.png
  python -m experiments.scaling.growth --axes T D --json growth.json

One axis at a time is varied from a base point near quick: sequence length T,
width D, layers L, heads H, batch B, eigenpairs k, seeds N. Exponents are fitted
to logarithms. Axes that --json already holds are kept, so that axes may be
measured one after another; `--axes` without a name measures nothing. Time is
the median of repeats after compilation. Memory is what XLA plans for a program
(arguments, results and temporaries); --check compares one plan with the
resident memory of this process and does nothing else.

Prints: every cost, and a table of fitted and expected exponents.
Takes: 10 minutes on 2 CPU cores, most of it compilation.
"""

import json
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.scaling.axes import AXES, MEASUREMENTS, Axis
from experiments.scaling.exponents import draw, make_table
from experiments.shared.device import peak_resident, planned_bytes
from experiments.shared.measuring import compile_for, compile_measurement
from experiments.shared.networks import read_config
from experiments.shared.reporting import make_parser, report, save
from experiments.shared.timing import timed
from induction_jax.devices.mesh import make_seeds_mesh
from induction_jax.measurements import EvaluationBatches
from induction_jax.run.experiment import (
  Experiment,
  make_experiment,
  make_pure_experiment,
)
from induction_jax.run.seeds import default_mapping, make_group
from induction_jax.training.state import TrainState

SECONDS = 3.0  # after which a measurement is not repeated a third time
REPEATS = 7
CHUNK_SECONDS = 0.1  # duration of the training steps timed together
# Axis, size and measurement of --check, large enough to outweigh the compiler.
CHECKED = ("T", 1024, "behaviour")


class Program(NamedTuple):
  """A compiled program to be timed.

  Attributes:
    turn: runs the program once and fetches its result to the host.
    bytes: arguments, results and temporaries, as XLA plans them.
    units: number of measured events (such as steps) in a turn.
  """

  turn: Callable[[], Any]
  bytes: int
  units: int = 1


def main(argv: list[str] | None = None) -> None:
  parser = make_parser(__doc__)
  parser.add_argument("--axes", nargs="*", choices=AXES, default=list(AXES))
  parser.add_argument("--figure", type=Path, help="draw the costs to this file")
  parser.add_argument("--points", type=int, help="use only the first sizes")
  parser.add_argument("--check", action="store_true", help="check memory only")
  options = parser.parse_args(argv)
  sys.stdout.reconfigure(line_buffering=True)
  if options.check:
    return check_memory()
  axes: dict[str, Any] = {}
  if options.json and options.json.exists():
    axes = json.loads(options.json.read_text()).get("axes", {})
  for name in options.axes:
    print(f"{AXES[name].title}, load before: {os.getloadavg()[0]:.1f}")
    axes[name] = measure_axis(AXES[name], options.points)
    if options.json:
      save({}, options.json, {"axes": axes})
  report({"exponents": make_table(axes)}, options.json, {"axes": axes})
  if options.figure:
    draw(axes, options.figure)


def measure_axis(axis: Axis, points: int | None = None) -> dict[str, Any]:
  """Costs by measurement, each a list over the sizes of the axis."""
  sizes = axis.sizes[:points]
  found: dict[str, Any] = {"sizes": list(sizes)}
  for size in sizes:
    for name, cost in measure_point(axis, size).items():
      text = ", ".join(f"{key} {value:.4g}" for key, value in cost.items())
      print(f"  {size:5d} {name}: {text}")
      for key, value in cost.items():
        found.setdefault(name, {}).setdefault(key, []).append(value)
    jax.clear_caches()  # or programs would pile up
  return found


def measure_point(axis: Axis, size: int) -> dict[str, dict[str, float]]:
  """Costs of every measurement at one point."""
  experiment = make_seeds(axis, size)
  wanted = [name for name in MEASUREMENTS if name in axis.expected]
  state = experiment.init()
  batches = experiment.draw(state.key)
  chunk = compile_for(experiment.train_chunk, state, jnp.int32(1))
  state, _ = chunk(state, jnp.int32(axis.train_steps))
  costs = {}
  for name in wanted:
    if name == "step":
      program = line_up_training(chunk, state)
    else:
      program = line_up(experiment, name, state, batches)
    costs[name] = _cost(program)
  return costs


def make_seeds(axis: Axis, size: int) -> Experiment:
  """The compiled experiment at a point, of many seeds on the axis N."""
  config = read_config("quick", axis.settings(size))
  if axis.leaves:
    return make_experiment(config)
  pure = make_pure_experiment(config)
  mesh = make_seeds_mesh(pure.config.mesh, size)
  return make_group(pure, default_mapping(), mesh)(range(size))


def line_up(
  experiment: Experiment,
  name: str,
  state: TrainState,
  batches: EvaluationBatches,
) -> Program:
  """A complete measurement, from the state to values on the host."""
  compiled = compile_measurement(experiment, name, state, batches)

  def turn() -> dict[str, np.ndarray]:
    arrays = compiled.measure(compiled.prepare(state, batches))
    for own in _each(arrays, state.step):
      values = compiled.measurement.finish(own)
    return values  # of the last seed

  return Program(turn, compiled.bytes)


def line_up_training(chunk: Any, state: TrainState) -> Program:
  """A chunk of as many steps as take CHUNK_SECONDS."""

  def turn(steps: int) -> Any:
    nonlocal state
    state, metrics = chunk(state, jnp.int32(steps))
    return jax.device_get(metrics)

  seconds = min(timed(lambda: turn(1))[0] for _ in range(2))
  steps = max(1, round(CHUNK_SECONDS / seconds))
  return Program(lambda: turn(steps), planned_bytes(chunk), steps)


def check_memory() -> None:
  """Prints the planned memory of one measurement and the measured peak."""
  name, size, wanted = CHECKED
  experiment = make_seeds(AXES[name], size)
  state = experiment.init()
  batches = experiment.draw(state.key)
  program = line_up(experiment, wanted, state, batches)
  before = peak_resident()
  program.turn()
  print(
    f"{wanted} at {name}={size}: {program.bytes / 2**20:.0f} MB planned, peak "
    f"{peak_resident() - before:.0f} MB above {before:.0f} MB"
  )


def _cost(program: Program) -> dict[str, float]:
  """The cost of a program; the first turn is not counted."""
  values = program.turn()
  seconds: list[float] = []
  while len(seconds) < 2 or (len(seconds) < REPEATS and sum(seconds) < SECONDS):
    seconds.append(timed(program.turn)[0])
  cost = {
    "seconds": statistics.median(seconds) / program.units,
    "bytes": program.bytes,
  }
  if isinstance(values, dict) and "products" in values:
    cost["products"] = float(values["products"])
  return cost


def _each(arrays: Any, steps: Any) -> Sequence[Any]:
  """The arrays of each seed, or of the only run."""
  if not steps.ndim:
    return [arrays]
  return [jax.tree.map(lambda x, i=i: x[i], arrays) for i in range(len(steps))]


if __name__ == "__main__":
  main()
