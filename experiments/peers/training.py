"""A training step, with the drawing of its batch: this project against PyTorch.

Question: how long does a step take here, beside PyTorch eager and compiled,
with attention patterns in memory and with fused attention?

Weights, batches, optimiser, float32 and cores are equal. Everyone takes turns
in one process; times are compared within a round, and compilation is not
counted. PyTorch must have the same losses before and after an update. Compiling
needs a C++ compiler.

With XLA_FLAGS=--xla_force_host_platform_device_count=2 ours is timed on two
virtual devices as well (mesh.data=2). Where jax has a GPU everyone uses it with
TF32 products, and PyTorch is also compiled with CUDA graphs.

Prints: milliseconds a step, the ratio to ours and the share of the machine's
peak, for quick and base. A peer that is missing or fails is named and is null
in the file.
Takes: some 5 minutes on 2 CPU cores, most of it compilation.
"""

import dataclasses
import os
import statistics
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.shared.device import step_operations
from experiments.shared.networks import read_config
from experiments.shared.reporting import Table, make_parser, report
from experiments.shared.timing import median_ratio, time_in_turn, timed
from induction_jax.config import Config
from induction_jax.model import Model, losses
from induction_jax.run.experiment import make_experiment
from induction_jax.training.memory import plan_micro_batch
from induction_jax.training.optimizer import make_optimizer
from induction_jax.types import Params

try:
  import torch

  from experiments.peers.torch_network import (
    LOSS_TOLERANCE,
    Network,
    make_draw,
    make_step,
  )
except ImportError:
  torch = None

UPDATED_TOLERANCE = 1e-3  # nats; the first update of AdamW is a sign
STEPS = {"cpu": {"quick": 40, "base": 2}, "gpu": {"quick": 500, "base": 100}}
MATRIX = {"cpu": 2048, "gpu": 8192}  # side of the product that is the peak
PEERS = ("eager", "fused", "compiled", "compiled fused")
GRAPHS = ("compiled, CUDA graphs", "compiled fused, CUDA graphs")
SPEEDUPS = {
  "speedup_eager": ("eager",),
  "speedup_fused": ("fused",),
  "speedup_compile": ("compiled", "compiled fused", *GRAPHS),
}

Turn = Callable[[int], Any]  # of a number of steps


def main(argv: list[str] | None = None) -> None:
  parser = make_parser(__doc__)
  sizes = list(STEPS["cpu"])
  parser.add_argument("--size", nargs="+", default=sizes, choices=sizes)
  parser.add_argument("--rounds", type=int, default=9, help="default 9")
  options = parser.parse_args(argv)
  sys.stdout.reconfigure(line_buffering=True)
  platform = jax.default_backend()
  cores = len(os.sched_getaffinity(0))
  if torch:
    torch.set_num_threads(cores)
  else:
    print("PyTorch: skipped, not installed")
  peak = measure_peak(platform)
  print(
    f"{cores} cores, load before: {os.getloadavg()[0]:.1f}, "
    f"peak {peak / 1e9:.0f} GFLOP/s"
  )
  figures: dict[str, Any] = {"peak_flops": peak, "jax": jax.__version__}
  for size in options.size:
    config = read_config(size)
    print(f"{size}, micro-batch of {plan_micro_batch(config, platform)}")
    steps = STEPS[platform][size]
    turns = {n: partial(t, steps) for n, t in line_up(config, platform).items()}
    seconds = time_in_turn(turns, options.rounds)
    per_step = {name: [s / steps for s in x] for name, x in seconds.items()}
    figures[size] = summarise(per_step, step_operations(config) / peak)
  print(f"load after: {os.getloadavg()[0]:.1f}")
  tables = {size: make_table(figures[size]) for size in options.size}
  report(tables, options.json, figures)


def line_up(config: Config, platform: str) -> dict[str, Turn]:
  """Everyone's turns by name, compiled; failures are left out."""
  experiment = make_experiment(config)
  params = jax.device_get(experiment.init().params)
  turns: dict[str, Turn] = {"ours": make_ours(config)}
  if jax.device_count() > 1:
    mesh = dataclasses.replace(config.mesh, data=2)
    shared = dataclasses.replace(config, mesh=mesh)
    turns["ours, 2 devices"] = make_ours(shared)
  if torch:
    torch.compiler.reset()  # torch limits how often a function is compiled
    for name in (*PEERS, *(GRAPHS if platform == "gpu" else ())):
      try:
        turns[name] = make_peer(
          config, params, name, experiment.model, platform
        )
      except Exception as error:  # a peer may raise anything
        print(f"{name}: failed, {repr(error)[:300]}")
  for turn in turns.values():
    turn(1)
  return turns


def make_ours(config: Config) -> Turn:
  """Steps of this project, as a run takes them."""
  experiment = make_experiment(config)
  state = experiment.init()

  def turn(steps: int) -> None:
    nonlocal state
    state, metrics = experiment.train_chunk(state, jnp.int32(steps))
    jax.block_until_ready(metrics)

  return turn


def make_peer(
  config: Config, params: Params, name: str, model: Model, platform: str
) -> Turn:
  """Steps of PyTorch, whose losses have been compared with ours.

  Raises:
    ValueError: if the losses differ, before or after an update.
  """
  device = "cuda" if platform == "gpu" else "cpu"
  fused, mode = "fused" in name, None
  if "compiled" in name:
    mode = "reduce-overhead" if name in GRAPHS else "default"
  network = Network(params, config.task.seq_length, fused).to(device)
  draw = make_draw(config.task, config.train.batch_size, config.seed, device)
  step = make_step(network, mode, config.optim)
  torch.set_float32_matmul_precision("highest")
  batch = draw()
  theirs = [step(*batch).item() for _ in range(2)]
  check_equal(config, params, model, batch, theirs)
  # TF32 on a GPU, which is the default of XLA too. A CPU has none.
  torch.set_float32_matmul_precision("high" if platform == "gpu" else "highest")

  def turn(steps: int) -> None:
    for _ in range(steps):
      step(*draw())
    if platform == "gpu":
      torch.cuda.synchronize()

  return turn


def check_equal(
  config: Config,
  params: Params,
  model: Model,
  batch: tuple[Any, Any],
  theirs: list[float],
) -> None:
  """Raises ValueError unless ours has the losses of the same two updates."""
  tokens, targets = (jnp.asarray(x.cpu().numpy(), jnp.int32) for x in batch)
  tx = make_optimizer(config.optim, config.train.num_steps)

  @jax.jit
  @jax.default_matmul_precision("highest")
  def ours(params: Params) -> tuple:
    def loss(params: Params):
      return jnp.mean(
        losses.token_losses(model.predict(params, tokens), targets)
      )

    before, grad = jax.value_and_grad(loss)(params)
    updates, _ = tx.update(grad, tx.init(params), params)
    return before, loss(optax.apply_updates(params, updates))

  for a, b, tolerance in zip(
    ours(params), theirs, (LOSS_TOLERANCE, UPDATED_TOLERANCE)
  ):
    if abs(float(a) - b) > tolerance:
      raise ValueError(
        f"losses must agree to {tolerance}, got {float(a)} in JAX and {b} in "
        "PyTorch"
      )


def summarise(
  seconds: dict[str, list[float]], peak_seconds: float
) -> dict[str, Any]:
  """Medians of ratios within rounds; "compile" is the best compiled peer.

  Args:
    seconds: per step, by name and round.
    peak_seconds: of a step at the machine's peak.
  """
  ratios = {
    name: median_ratio(spent, seconds["ours"])
    for name, spent in seconds.items()
  }
  medians = {name: statistics.median(x) for name, x in seconds.items()}
  return {
    **{
      key: min((ratios[n] for n in names if n in ratios), default=None)
      for key, names in SPEEDUPS.items()
    },
    "share_of_peak": peak_seconds / medians["ours"],
    "speedups": ratios,
    "seconds": medians,
    "share_of_peak_of_each": {n: peak_seconds / x for n, x in medians.items()},
  }


def measure_peak(platform: str) -> float:
  """FLOP/s of a large float32 product, the better of JAX and PyTorch."""
  side = MATRIX[platform]
  x = np.random.default_rng(0).normal(size=(side, side)).astype(np.float32)
  product, y = jax.jit(jnp.matmul), jnp.asarray(x)
  ways: list[Callable[[], Any]] = [lambda: product(y, y)]
  if torch and platform == "cpu":
    z = torch.tensor(x)
    ways.append(lambda: z @ z)
  return 2 * side**3 / min(timed(way)[0] for way in ways * 10)


def make_table(figures: dict[str, Any]) -> Table:
  rows = [
    [
      name,
      1e3 * seconds,
      figures["speedups"][name],
      figures["share_of_peak_of_each"][name],
    ]
    for name, seconds in figures["seconds"].items()
  ]
  columns = ["", "ms a step", "over ours", "share of peak"]
  return Table(columns, ["", ".2f", ".2f", ".2f"], rows)


if __name__ == "__main__":
  main()
