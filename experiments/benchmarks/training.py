r"""A step of training against PyTorch's, whole, with the drawing of its batch.

  python experiments/benchmarks/training.py --json training.json

Equal weights, batches, optimiser, float32 and cores, turn by turn in one
process: ratios within a round, medians over rounds, compilation not counted.
PyTorch eager with whole patterns, eager with fused attention, and both by
torch.compile, which needs a C++ compiler. A peer that is missing or fails is
null, with a message.

With XLA_FLAGS=--xla_force_host_platform_device_count=2 ours is timed on two
virtual devices as well (mesh.data=2). Where jax has a GPU all run on it, with
its default products, TF32, on both sides; torch.compile then with CUDA graphs
too.
"""

import argparse
import dataclasses
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
import numpy as np
import optax
from device import step_operations
from problem import read_config

from induction_jax.config import Config
from induction_jax.model import Model, losses
from induction_jax.run.experiment import make_experiment
from induction_jax.training.optim import make_optimizer
from induction_jax.training.step import plan_micro_batch
from induction_jax.types import Params

try:
  import torch
  from torch_training import Network, make_draw, make_step
except ImportError as error:
  print(f"PyTorch: skipped, {error}")
  torch = None

LOSS_TOLERANCE = 1e-5  # nats
UPDATED_TOLERANCE = 1e-3  # after a step: AdamW's first one is a sign
ON_GPU = jax.default_backend() == "gpu"
STEPS = {"quick": 500, "base": 100} if ON_GPU else {"quick": 40, "base": 2}
# The side of the product that is taken for the machine's peak.
MATRIX = 8192 if ON_GPU else 2048
PEERS = ("eager", "fused", "compiled", "compiled fused")
GRAPHS = ("compiled, CUDA graphs", "compiled fused, CUDA graphs")  # on a GPU
SPEEDUPS = {
  "speedup_eager": ("eager",),
  "speedup_fused": ("fused",),
  "speedup_compile": ("compiled", "compiled fused", *GRAPHS),
}

Turn = Callable[[int], Any]  # a number of steps


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument(
    "--size", nargs="+", default=list(STEPS), choices=list(STEPS)
  )
  parser.add_argument("--rounds", type=int, default=9, help="default 9")
  parser.add_argument("--json", type=Path, help="where the figures go")
  options = parser.parse_args()
  sys.stdout.reconfigure(line_buffering=True)
  cores = len(os.sched_getaffinity(0))
  if torch:
    torch.set_num_threads(cores)
  peak = measure_peak()
  print(
    f"{cores} cores, jax {jax.__version__}, load before: "
    f"{os.getloadavg()[0]:.1f}, peak {peak / 1e9:.0f} GFLOP/s"
  )
  figures: dict[str, Any] = {"peak_flops": peak, "jax": jax.__version__}
  for size in options.size:
    config = read_config(size)
    turns = line_up(config)
    seconds = race(turns, STEPS[size], options.rounds)
    figures[size] = summarise(seconds, step_operations(config) / peak)
    print_figures(size, config, figures[size])
  print(f"load after: {os.getloadavg()[0]:.1f}")
  if options.json:
    options.json.write_text(json.dumps(figures, indent=2) + "\n")


def line_up(config: Config) -> dict[str, Turn]:
  """Everyone's turns by name, compiled; who fails is left out."""
  experiment = make_experiment(config)
  params = jax.device_get(experiment.init().params)
  turns: dict[str, Turn] = {"ours": make_ours(config)}
  if jax.device_count() > 1:
    mesh = dataclasses.replace(config.mesh, data=2)
    shared = dataclasses.replace(config, mesh=mesh)
    turns["ours, 2 devices"] = make_ours(shared)
  if torch:
    torch.compiler.reset()  # it compiles a function only so many times
    for name in (*PEERS, *(GRAPHS if ON_GPU else ())):
      try:
        turns[name] = make_peer(config, params, name, experiment.model)
      except Exception as error:  # whatever a peer raises is its result
        print(f"{name}: failed, {repr(error)[:300]}")
  for turn in turns.values():
    turn(1)
  return turns


def make_ours(config: Config) -> Turn:
  """Our turn, that of a run."""
  experiment = make_experiment(config)
  state = experiment.init()

  def turn(steps: int) -> None:
    nonlocal state
    state, metrics = experiment.train_chunk(state, jnp.int32(steps))
    jax.block_until_ready(metrics)

  return turn


def make_peer(config: Config, params: Params, name: str, model: Model) -> Turn:
  """PyTorch's turn, once its loss is seen to be ours.

  Raises:
    ValueError: if the losses differ, before or after an update.
  """
  device = "cuda" if ON_GPU else "cpu"
  network = Network(config, params, fused="fused" in name).to(device)
  loss = network
  if "compiled" in name:
    mode = "reduce-overhead" if name in GRAPHS else "default"
    loss = torch.compile(network, mode=mode)
  draw = make_draw(config.task, config.train.batch_size, config.seed, device)
  step = make_step(loss, network, config.optim)
  torch.set_float32_matmul_precision("highest")
  batch = draw()
  theirs = [step(*batch).item() for _ in range(2)]
  check_equal(config, params, model, batch, theirs)
  # TF32 on a GPU, as XLA's default is; a CPU has none.
  torch.set_float32_matmul_precision("high" if ON_GPU else "highest")

  def turn(steps: int) -> None:
    for _ in range(steps):
      step(*draw())
    if ON_GPU:
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
        f"losses must be equal to {tolerance}, got {float(a)} in JAX, "
        f"{b} in PyTorch"
      )


def race(
  turns: dict[str, Turn], steps: int, rounds: int
) -> dict[str, list[float]]:
  """Seconds a step of everyone, by round."""
  seconds: dict[str, list[float]] = {name: [] for name in turns}
  for _ in range(rounds):
    for name, turn in turns.items():
      start = time.perf_counter()
      turn(steps)
      seconds[name].append((time.perf_counter() - start) / steps)
  return seconds


def summarise(
  seconds: dict[str, list[float]], peak_seconds: float
) -> dict[str, Any]:
  """Medians of ratios within rounds; a compiled peer at its better."""
  ratios = {
    name: statistics.median(a / b for a, b in zip(spent, seconds["ours"]))
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


def measure_peak() -> float:
  """FLOP a second of a large float32 product, JAX's or PyTorch's better."""
  x = np.random.default_rng(0).normal(size=(MATRIX, MATRIX)).astype(np.float32)
  product = jax.jit(jnp.matmul)
  y = jnp.asarray(x)
  ways: list[Callable[[], Any]] = [lambda: jax.block_until_ready(product(y, y))]
  if torch and not ON_GPU:
    z = torch.tensor(x)
    ways.append(lambda: z @ z)
  best = float("inf")
  for way in ways * 10:
    start = time.perf_counter()
    way()
    best = min(best, time.perf_counter() - start)
  return 2 * MATRIX**3 / best


def print_figures(size: str, config: Config, figures: dict[str, Any]) -> None:
  micro_batch = plan_micro_batch(config, jax.default_backend())
  print(f"\n{size}, micro-batch of {micro_batch}\n")
  print("| | ms a step | over ours | share of peak |\n|---|---|---|---|")
  for name, seconds in figures["seconds"].items():
    print(
      f"| {name} | {1e3 * seconds:.2f} | {figures['speedups'][name]:.2f} | "
      f"{figures['share_of_peak_of_each'][name]:.2f} |"
    )


if __name__ == "__main__":
  main()
