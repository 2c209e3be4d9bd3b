"""What a run costs on a GPU.

Question: how long do steps, Hessian products, spectra and complete runs take on
an accelerator, how much memory do they need, and what limits them?

  python -m experiments.gpu.accelerator --json gpu.json
  python -m experiments.gpu.accelerator --cases 100m profile
  python -m experiments.gpu.accelerator --small --seeds 2

The cases, each in a process of its own:
  base       configs/base.py from start to figures
  sweep      the same with --seeds seeds in one program
  100m       the ten largest and smallest eigenvalues at 10^8 parameters
  precision  eigenvalues with TF32 and with full float32 products
  profile    a trace of training steps, for TensorBoard or Perfetto
Any --config.SECTION.LEAF=VALUE goes to every case but `precision`.

Prints: one row for each timed piece of work, with its share of the peaks that
the process measures on its own device. The file has all other figures.
Takes: minutes for each case on an H200, but hours for all steps of a sweep with
64 seeds (--config.train.num_steps shortens it). --small runs all cases at toy
sizes and takes 4 minutes on 2 CPU cores.
"""

import json
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from experiments.gpu.precision import compare_precisions
from experiments.peers.costs import LOOP, power
from experiments.shared.device import (
  PRODUCT_PASSES,
  forward_operations,
  measure_peaks,
  peak_bytes,
  step_operations,
)
from experiments.shared.measuring import compile_measurement
from experiments.shared.networks import read_config
from experiments.shared.reporting import Table, make_parser, report
from experiments.shared.timing import timed
from induction_jax import sweep, train
from induction_jax.config import Config, parse_leaves
from induction_jax.run.experiment import make_experiment
from induction_jax.storage.files import read_json

Figures = dict[str, Any]
PEAK, SMALL_PEAK = 8192, 256  # sides of matrices
LARGE = {
  "model.n_layers": 8,
  "model.n_heads": 16,
  "model.d_model": 1024,
  "model.d_mlp": 4096,
  "optim.learning_rate": 3e-4,
  "train.batch_size": 16,
  # Streamed products, and a basis of 40 rows of 0.4 GB instead of 200 rows.
  "spectra.batch_size": 16,
  "spectra.micro_batch_size": 4,
  "spectra.max_order": 200,
  "spectra.max_basis": 40,
  "spectra.preconditioned_top_k": 0,
}
SMALL = {
  "task.seq_length": 32,
  "task.pattern_max": 8,
  "task.gap_max": 4,
  "model.n_layers": 2,
  "model.n_heads": 2,
  "model.d_model": 16,
  "train.num_steps": 4,
  "train.batch_size": 4,
  "behaviour.batch_size": 4,
  "ablation.batch_size": 4,
  "spectra.batch_size": 4,
  "spectra.micro_batch_size": 2,
  "spectra.max_order": 60,
}


def main(argv: list[str] | None = None) -> None:
  options = parse_options(argv)
  if len(options.cases) == 1:
    (case,) = options.cases
    figures = {case: run_case(case, options)}
  else:
    figures = {case: run_apart(case, options) for case in options.cases}
  report({"work": make_table(figures)}, options.json, figures)


def parse_options(argv: list[str] | None) -> Namespace:
  """The options, with --config.SECTION.LEAF=VALUE as `flags`."""
  parser = make_parser(__doc__)
  parser.add_argument("--cases", nargs="+", choices=CASES, default=[*CASES])
  parser.add_argument("--small", action="store_true", help="toy sizes")
  parser.add_argument("--seeds", type=int, default=64, help="default 64")
  parser.add_argument("--steps", type=int, default=20, help="default 20")
  parser.add_argument("--workdir", type=Path, help="new folder for runs")
  options, options.flags = parser.parse_known_args(argv)
  for flag in options.flags:
    if not (flag.startswith("--config.") and "=" in flag):
      parser.error(f"unrecognized argument: {flag}")
  options.workdir = options.workdir or Path(tempfile.mkdtemp())
  return options


def make_case_config(
  options: Namespace, settings: Mapping[str, Any] | None = None
) -> Config:
  """configs/base.py with a case's settings and those of the command line."""
  given = dict(
    flag.removeprefix("--config.").split("=") for flag in options.flags
  )
  small = SMALL if options.small else {}
  return read_config(
    "base", {**(settings or {}), **small, **parse_leaves(given)}
  )


def run_apart(case: str, options: Namespace) -> Figures:
  """Runs a case in a new process, because peak memory is kept per process."""
  path = options.workdir / f"{case}.json"
  path.parent.mkdir(parents=True, exist_ok=True)
  command = [sys.executable, "-m", "experiments.gpu.accelerator"]
  command += ["--cases", case, "--json", path, "--workdir", options.workdir]
  command += ["--seeds", str(options.seeds), "--steps", str(options.steps)]
  command += ["--small"] * options.small + options.flags
  print(f"== {case}", flush=True)
  status = subprocess.run(command).returncode
  if status:
    return {"failed": status}  # out of memory, for example
  return json.loads(path.read_text())[case]


def run_case(case: str, options: Namespace) -> Figures:
  """The figures of a case, its peak memory, and shares of measured peaks."""
  figures = CASES[case](options)
  figures["peak_bytes"] = peak_bytes()
  peaks = measure_peaks(SMALL_PEAK if options.small else PEAK)
  for work in figures.values():
    if isinstance(work, dict) and work.get("seconds"):
      if "operations" in work:
        done = work["operations"] / work["seconds"]
        work["share_of_peak"] = done / peaks[work["precision"]]
      if "bytes" in work:
        moved = work["bytes"] / work["seconds"]
        work["share_of_bandwidth"] = moved / peaks["bytes"]
  figures |= {"device": jax.devices()[0].device_kind, "peaks": peaks}
  return figures


def make_table(figures: Mapping[str, Figures]) -> Table:
  """One row for each timed piece of work of every case."""
  rows = [
    [
      f"{case}, {name.replace('_', ' ')}",
      1e3 * work["seconds"],
      work.get("share_of_peak"),
      work.get("share_of_bandwidth"),
    ]
    for case, found in figures.items()
    for name, work in found.items()
    if isinstance(work, dict) and "seconds" in work
  ]
  columns = ["work", "ms", "share of peak", "share of bandwidth"]
  return Table(columns, ["", ".3g", ".2f", ".2f"], rows)


def run_base(options: Namespace) -> Figures:
  """One run from start to figures. Training includes its compilation."""
  root = options.workdir / "base"
  figures = run_as_user(train.main, ("train",), root, options)
  return figures | read_costs([root], make_case_config(options))


def run_sweep(options: Namespace) -> Figures:
  """All seeds in one program."""
  root, seeds = options.workdir / "sweep", options.seeds
  command = "sweep", f"--seeds={seeds}", f"--group={seeds}", "--mapping=vmap"
  figures = run_as_user(sweep.main, command, root, options)
  roots = sorted(root.glob("seed_*"))
  costs = read_costs(roots, make_case_config(options))
  return {"seeds": seeds} | figures | costs


def run_as_user(
  main: Callable[[list[str]], int],
  command: tuple[str, ...],
  root: Path,
  options: Namespace,
) -> Figures:
  """Exit status and seconds of a command with the options of every case."""
  small = SMALL if options.small else {}
  settings = [f"--config.{name}={value}" for name, value in small.items()]
  where = ["--config=base", f"--workdir={root}"]
  begun = time.perf_counter()
  status = main([*command, *where, *settings, *options.flags])
  return {"status": status, "wall_seconds": time.perf_counter() - begun}


def run_large(options: Namespace) -> Figures:
  """Steps, products and one spectrum of a network of 10^8 parameters."""
  width = {"model.d_mlp": 64} if options.small else {}
  config = make_case_config(options, LARGE | width)
  experiment = make_experiment(config)
  state = experiment.init()
  batches = experiment.draw(state.key)
  size = sum(x.size for x in jax.tree.leaves(state.params))
  print(f"{size} parameters; {experiment.description}", flush=True)
  state, _ = experiment.train_chunk(state, jnp.int32(1))  # compiles
  seconds, (state, _) = timed(
    lambda: experiment.train_chunk(state, jnp.int32(options.steps))
  )
  print(f"{1e3 * seconds / options.steps:.1f} ms a step", flush=True)
  # Compiled without a call, which would need its memory a second time.
  compiled = compile_measurement(experiment, "spectra", state, batches)
  inputs = compiled.prepare(state, batches)
  hessian = inputs.used["linearisation"].hessian
  power(hessian, state.params, LOOP)
  product = timed(lambda: power(hessian, state.params, LOOP))[0] / LOOP
  print(f"{1e3 * product:.1f} ms a product", flush=True)
  spent, values = timed(lambda: compiled.measure(inputs))
  products = int(values["products"])
  streamed = PRODUCT_PASSES[experiment.description.split(",")[0].split(";")[0]]
  passes = streamed * config.spectra.batch_size
  return {
    "parameters": size,
    "products_by": experiment.description,
    "step": training_work(config, seconds, options.steps),
    "product": {
      "seconds": product,
      "operations": passes * forward_operations(config),
      "precision": "float32_highest",
    },
    "gram_schmidt": {
      # The basis is read twice for each product and is half full on average.
      "seconds": max(spent - products * product, 0.0),
      "bytes": 4 * size * products * config.spectra.max_basis,
    },
    "measurement_seconds": spent,
    "measurement_planned_bytes": compiled.bytes,
    "products": products,
    **{
      f"{end}_{what}": values[f"{end}_{what}"].tolist()
      for end in ("top", "bottom")
      for what in ("eigenvalues", "residuals", "converged")
    },
  }


def run_precision(options: Namespace) -> Figures:
  return {
    size: compare_precisions(size)
    for size in (("quick",) if options.small else ("quick", "1m"))
  }


def run_profile(options: Namespace) -> Figures:
  """Traces steps of base, and a measurement of its spectra."""
  config = make_case_config(options)
  experiment = make_experiment(config)
  state = experiment.init()
  batches = experiment.draw(state.key)
  directory = options.workdir / "trace"
  state, _ = experiment.train_chunk(state, jnp.int32(1))  # compiles
  spectra = compile_measurement(experiment, "spectra", state, batches)
  spectra.measure(spectra.prepare(state, batches))
  with jax.profiler.trace(str(directory)):
    with jax.profiler.TraceAnnotation("steps"):
      seconds, (state, _) = timed(
        lambda: experiment.train_chunk(state, jnp.int32(options.steps))
      )
    with jax.profiler.TraceAnnotation("spectra"):
      spectra.measure(spectra.prepare(state, batches))
  return {
    "trace": str(directory),
    "step": training_work(config, seconds, options.steps),
  }


def read_costs(roots: Sequence[Path], config: Config) -> Figures:
  """Training and measuring seconds that runs recorded, and training as work."""
  costs = [read_json(root / "cost.json") for root in roots]
  seconds = {
    name: sum(cost[name] for cost in costs)
    for name in ("train_seconds", "measure_seconds")
  }
  steps = len(roots) * config.train.num_steps
  work = {
    "seconds": seconds["train_seconds"],
    "operations": steps * step_operations(config),
    "precision": "float32_default",
  }
  return {**seconds, "training": work}


def training_work(config: Config, seconds: float, steps: int) -> Figures:
  """One training step as a piece of work."""
  return {
    "seconds": seconds / steps,
    "operations": step_operations(config),
    "precision": "float32_default",
  }


CASES: dict[str, Callable[[Namespace], Figures]] = {
  "base": run_base,
  "sweep": run_sweep,
  "100m": run_large,
  "precision": run_precision,
  "profile": run_profile,
}

if __name__ == "__main__":
  main()
