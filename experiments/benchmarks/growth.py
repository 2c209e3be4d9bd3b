r"""How a step and each measurement grow, in time and memory.

  python experiments/benchmarks/growth.py --json growth.json --figure growth.png
  python experiments/benchmarks/growth.py --axes T D --json growth.json

One axis at a time from a base point near `quick`: sequence length T, width D,
layers L, heads H, batch B, eigenpairs k, seeds N. Exponents are fitted in
logarithms and stand beside those expected. What is in --json already is kept,
so that axes may be measured in several goes; `--axes` without a name measures
nothing and only draws and prints what is there. Time is the median of repeats
after compilation; memory is what XLA plans for a program (arguments, results
and temporaries), the same on every machine of a kind. --check compares one of
these with the resident size of a process of its own.
"""

import argparse
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
from costs import timed
from device import planned_bytes
from expectations import AXES, MEASUREMENTS, Axis
from growth_report import draw, print_table
from memory import peak_resident
from problem import quick_config

from induction_jax.devices.mesh import make_seeds_mesh
from induction_jax.measurements import HeldOut, Probe
from induction_jax.run.experiment import (
  Experiment,
  make_experiment,
  make_pure_experiment,
)
from induction_jax.run.seeds import default_mapping, make_group
from induction_jax.training.state import TrainState

SECONDS = 3.0  # spent on a measurement, if that is more than two repeats
REPEATS = 7
CHUNK_SECONDS = 0.1  # of training steps timed together
# By --check: large enough to outweigh the compiler.
CHECKED = ("T", 1024, "behaviour")


class Program(NamedTuple):
  """Something compiled, to be timed.

  Attributes:
    turn: runs it once, to its result on the host.
    bytes: of arguments, results and temporaries, as XLA plans them.
    units: how often what is measured happens in a turn.
  """

  turn: Callable[[], Any]
  bytes: int
  units: int = 1


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--axes", nargs="*", choices=AXES, default=list(AXES))
  parser.add_argument("--json", type=Path, help="figures, kept and added to")
  parser.add_argument("--figure", type=Path, help="where to draw them")
  parser.add_argument("--points", type=int, help="the first sizes alone")
  parser.add_argument("--check", action="store_true", help="of memory, alone")
  options = parser.parse_args()
  sys.stdout.reconfigure(line_buffering=True)  # a run takes minutes
  if options.check:
    return check_memory()
  figures = {}
  if options.json and options.json.exists():
    figures = json.loads(options.json.read_text())
  for name in options.axes:
    print(f"{AXES[name].title}, load before: {os.getloadavg()[0]:.1f}")
    figures[name] = measure_axis(AXES[name], options.points)
    if options.json:
      options.json.write_text(json.dumps(figures, indent=2) + "\n")
  print_table(figures)
  if options.figure:
    draw(figures, options.figure)


def measure_axis(axis: Axis, points: int | None = None) -> dict[str, Any]:
  """Costs by measurement, each a list over the axis' sizes."""
  sizes = axis.sizes[:points]
  found: dict[str, Any] = {"sizes": list(sizes)}
  for size in sizes:
    for name, cost in measure_point(axis, size).items():
      told = ", ".join(f"{key} {value:.4g}" for key, value in cost.items())
      print(f"  {size:5d} {name}: {told}")
      for key, value in cost.items():
        found.setdefault(name, {}).setdefault(key, []).append(value)
    jax.clear_caches()  # or programs would pile up
  return found


def measure_point(axis: Axis, size: int) -> dict[str, dict[str, float]]:
  """Seconds, bytes and more of every measurement at one point."""
  experiment = make_seeds(axis, size)
  wanted = [name for name in MEASUREMENTS if name in axis.expected]
  state = experiment.init()
  held_out = experiment.draw(state.key)
  chunk = _compile(experiment.train_chunk, state, jnp.int32(1))
  state, _ = chunk(state, jnp.int32(axis.train_steps))
  costs = {}
  for probe in experiment.probes:
    if probe.name in wanted:
      program = line_up(probe, state, held_out)
      costs[probe.name] = _cost(program)
  if "step" in wanted:  # last, for it gives its state away
    program = line_up_training(chunk, state)
    costs["step"] = _cost(program)
  return {name: costs[name] for name in wanted}


def make_seeds(axis: Axis, size: int) -> Experiment:
  """The compiled experiment at a point; of many seeds where these grow."""
  config = quick_config(
    tuple(f"--config.{k}={v}" for k, v in axis.settings(size).items())
  )
  if axis.leaves:
    return make_experiment(config)
  pure = make_pure_experiment(config)
  mesh = make_seeds_mesh(pure.config.mesh, size)
  return make_group(pure, default_mapping(), mesh)(range(size))


def line_up(probe: Probe, state: TrainState, held_out: HeldOut) -> Program:
  """A probe's measurement from start to finish, as the loop makes it."""
  carry = probe.init_carry(state.params)
  prepare = _compile(probe.prepare, state, held_out)
  prepared = prepare(state, held_out)
  measure = _compile(probe.measure, state, held_out, prepared, carry)

  def turn() -> dict[str, np.ndarray]:
    prepared = prepare(state, held_out)
    arrays, _ = measure(state, held_out, prepared, carry)
    arrays = jax.device_get(arrays)
    for own in _each(arrays, state.step):
      values = probe.finish(own)
    return values  # of the last seed

  most = max(planned_bytes(prepare), planned_bytes(measure))
  return Program(turn, most)


def line_up_training(chunk: Any, state: TrainState) -> Program:
  """A chunk of steps, as many as take CHUNK_SECONDS."""

  def turn(steps: int) -> Any:
    nonlocal state
    state, metrics = chunk(state, jnp.int32(steps))
    return jax.device_get(metrics)

  seconds = min(timed(lambda: turn(1))[0] for _ in range(2))
  steps = max(1, round(CHUNK_SECONDS / seconds))
  return Program(lambda: turn(steps), planned_bytes(chunk), steps)


def check_memory() -> None:
  """Prints XLA's plan for one probe beside what its process came to hold."""
  name, size, wanted = CHECKED
  experiment = make_seeds(AXES[name], size)
  state = experiment.init()
  (probe,) = (p for p in experiment.probes if p.name == wanted)
  program = line_up(probe, state, experiment.draw(state.key))
  before = peak_resident()
  program.turn()
  print(
    f"{wanted} at {name}={size}: {program.bytes / 2**20:.0f} MB planned, peak "
    f"{peak_resident() - before:.0f} MB above {before:.0f} MB"
  )


def _compile(function: Any, *arguments: Any) -> Any:
  return function.lower(*arguments).compile()


def _cost(program: Program) -> dict[str, float]:
  """A program's figures; the first turn is not counted."""
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
  """What was measured of each seed; of one alone, that."""
  if not steps.ndim:
    return [arrays]
  return [jax.tree.map(lambda x, i=i: x[i], arrays) for i in range(len(steps))]


if __name__ == "__main__":
  main()
