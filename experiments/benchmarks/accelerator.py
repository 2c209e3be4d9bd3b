r"""What a GPU makes of it; every case in a process of its own.

  python experiments/benchmarks/accelerator.py --json gpu.json
  python experiments/benchmarks/accelerator.py --cases 100m profile
  python experiments/benchmarks/accelerator.py --small     # anywhere, a minute

  base       configs/base.py from start to figures
  sweep      the same with 64 seeds in one program
  100m       the ten largest and smallest eigenvalues at 10^8 parameters
  precision  TF32 against "highest" in the Hessian's products: eigenvalues
  profile    a trace of training steps, for TensorBoard or Perfetto

Shares are of the peaks that the same process measures on the device
afterwards: float32 products, and copies. --small is the same code at toy sizes;
--config.<section>.<leaf>=VALUE goes to every case but `precision`.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from costs import LOOP, power, timed
from device import (
  PRODUCT_PASSES,
  forward_operations,
  measure_peaks,
  peak_bytes,
  planned_bytes,
  step_operations,
)
from precision import compare_precisions
from problem import config_path, read_config

from induction_jax import sweep, train
from induction_jax.config import Config
from induction_jax.run.experiment import make_experiment
from induction_jax.run.measuring import observe
from induction_jax.storage.documents import read_json

Figures = dict[str, Any]
PEAK, SMALL_PEAK = 8192, 256  # sides of the matrices that peaks are measured on
LARGE = {
  "model.n_layers": 8,
  "model.n_heads": 16,
  "model.d_model": 1024,
  "model.d_mlp": 4096,
  "optim.learning_rate": 3e-4,
  "train.batch_size": 16,
  # Streamed, and a basis of 40 rows of 0.4 GB in place of 200.
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


class Options(NamedTuple):
  """What the command line asks.

  Attributes:
    flags: of every case, as the command line has them.
    overrides: of configs/base.py, after a case's own.
    small: toy sizes.
    seeds: of `sweep`.
    steps: timed at `100m`, and traced by `profile`.
    workdir: of runs and traces.
  """

  flags: tuple[str, ...]
  overrides: tuple[str, ...]
  small: bool
  seeds: int
  steps: int
  workdir: Path

  def config_flags(self, settings: Mapping[str, float]) -> tuple[str, ...]:
    """Settings as flags; of two for one leaf the later counts."""
    all_ = {**settings, **(SMALL if self.small else {})}
    return *(f"--config.{k}={v}" for k, v in all_.items()), *self.overrides

  def config(self, settings: Mapping[str, float] = MappingProxyType({})):
    """The case's config, over configs/base.py."""
    return read_config("base", self.config_flags(settings))


def main() -> None:
  options, cases, path = parse_options()
  if len(cases) == 1:
    figures = {cases[0]: run_case(cases[0], options)}
  else:
    figures = {case: run_apart(case, options) for case in cases}
  if path:
    path.write_text(json.dumps(figures, indent=2) + "\n")
  else:
    print(json.dumps(figures, indent=2))


def parse_options() -> tuple[Options, list[str], Path | None]:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--cases", nargs="+", choices=CASES, default=[*CASES])
  parser.add_argument("--json", type=Path, help="where the figures go")
  parser.add_argument("--small", action="store_true", help="toy sizes")
  parser.add_argument("--seeds", type=int, default=64, help="default 64")
  parser.add_argument("--steps", type=int, default=20, help="default 20")
  parser.add_argument("--workdir", type=Path, help="of runs and traces; new")
  found, rest = parser.parse_known_args()
  for flag in rest:
    if not flag.startswith("--config."):
      parser.error(f"unrecognized argument: {flag}")
  workdir = found.workdir or Path(tempfile.mkdtemp(prefix="accelerator_"))
  own = ["--seeds", found.seeds, "--steps", found.steps, "--workdir", workdir]
  options = Options(
    flags=(*map(str, own), *(["--small"] if found.small else []), *rest),
    overrides=tuple(rest),
    small=found.small,
    seeds=found.seeds,
    steps=found.steps,
    workdir=workdir,
  )
  return options, found.cases, found.json


def run_apart(case: str, options: Options) -> Figures:
  """A case in a new process: a device tells only the most it ever held."""
  with tempfile.TemporaryDirectory() as directory:
    path = Path(directory) / "case.json"
    command = [sys.executable, __file__, "--cases", case, "--json", str(path)]
    print(f"== {case}", flush=True)
    status = subprocess.run([*command, *options.flags]).returncode
    if status:
      return {"failed": status}  # such as out of memory; the others go on
    return json.loads(path.read_text())[case]


def run_case(case: str, options: Options) -> Figures:
  """A case's figures, its memory, and shares of peaks measured after it."""
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


def run_base(options: Options) -> Figures:
  """One run from start to figures; training includes its compilation."""
  root = options.workdir / "base"
  figures = run_as_user(train.main, ("train",), root, options)
  return figures | _of_cost([root], options.config())


def run_sweep(options: Options) -> Figures:
  """All seeds in one program."""
  root, seeds = options.workdir / "sweep", options.seeds
  command = "sweep", f"--seeds={seeds}", f"--group={seeds}", "--mapping=vmap"
  figures = run_as_user(sweep.main, command, root, options)
  roots = sorted(root.glob("seed_*"))
  return {"seeds": seeds} | figures | _of_cost(roots, options.config())


def run_as_user(
  main: Callable[[list[str]], int],
  command: tuple[str, ...],
  root: Path,
  options: Options,
) -> Figures:
  """Exit status and seconds of a command as users give it."""
  where = f"--config={config_path('base')}", f"--workdir={root}"
  begun = time.perf_counter()
  status = main([*command, *where, *options.config_flags({})])
  return {"status": status, "wall_seconds": time.perf_counter() - begun}


def run_large(options: Options) -> Figures:
  """Steps, bare products and a whole spectrum of a network of 10^8."""
  config = options.config(
    LARGE | ({"model.d_mlp": 64} if options.small else {})
  )
  experiment = make_experiment(config)
  state = experiment.init()
  held_out = experiment.draw(state.key)
  size = sum(x.size for x in jax.tree.leaves(state.params))
  print(f"{size} parameters; {experiment.products}", flush=True)
  state, _ = experiment.train_chunk(state, jnp.int32(1))  # compiles
  seconds, (state, _) = timed(
    lambda: experiment.train_chunk(state, jnp.int32(options.steps))
  )
  print(f"{1e3 * seconds / options.steps:.1f} ms a step", flush=True)
  (probe,) = (p for p in experiment.probes if p.name == "spectra")
  prepared = probe.prepare(state, held_out)
  power(prepared.hessian, state.params, LOOP)
  product = timed(lambda: power(prepared.hessian, state.params, LOOP))[0] / LOOP
  print(f"{1e3 * product:.1f} ms a product", flush=True)
  # Compiled apart, for a first call would need the memory of a second.
  carry = probe.init_carry(state.params)
  measure = probe.measure.lower(state, held_out, prepared, carry).compile()
  spent, (values, _) = timed(lambda: measure(state, held_out, prepared, carry))
  values = jax.device_get(values)
  products = int(values["products"])
  streamed = PRODUCT_PASSES[experiment.products.split(",")[0].split(";")[0]]
  passes = streamed * config.spectra.batch_size
  return {
    "parameters": size,
    "products_by": experiment.products,
    "step": {
      "seconds": seconds / options.steps,
      "operations": step_operations(config),
      "precision": "float32_default",
    },
    "product": {
      "seconds": product,
      "operations": passes * forward_operations(config),
      "precision": "float32_highest",
    },
    "gram_schmidt": {
      # The basis is read twice for each product, half full in the mean.
      "seconds": max(spent - products * product, 0.0),
      "bytes": 4 * size * products * config.spectra.max_basis,
    },
    "measurement_seconds": spent,
    "measurement_planned_bytes": planned_bytes(measure),
    "products": products,
    **{
      f"{end}_{what}": values[f"{end}_{what}"].tolist()
      for end in ("top", "bottom")
      for what in ("eigenvalues", "residuals", "converged")
    },
  }


def run_precision(options: Options) -> Figures:
  return {
    size: compare_precisions(size)
    for size in (("quick",) if options.small else ("quick", "1m"))
  }


def run_profile(options: Options) -> Figures:
  """Traces steps of base, and a measurement of its spectra."""
  config = options.config()
  experiment = make_experiment(config)
  state = experiment.init()
  held_out = experiment.draw(state.key)
  (probe,) = (p for p in experiment.probes if p.name == "spectra")
  carry = probe.init_carry(state.params)
  directory = options.workdir / "trace"
  state, _ = experiment.train_chunk(state, jnp.int32(1))  # compiles
  observe(probe, state, held_out, carry)
  with jax.profiler.trace(str(directory)):
    with jax.profiler.TraceAnnotation("steps"):
      seconds, (state, _) = timed(
        lambda: experiment.train_chunk(state, jnp.int32(options.steps))
      )
    with jax.profiler.TraceAnnotation("spectra"):
      observe(probe, state, held_out, carry)
  return {
    "trace": str(directory),
    "step": {
      "seconds": seconds / options.steps,
      "operations": step_operations(config),
      "precision": "float32_default",
    },
  }


def _of_cost(roots: Sequence[Path], config: Config) -> Figures:
  """Seconds that runs have written down, and their training as work."""
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


CASES: dict[str, Callable[[Options], Figures]] = {
  "base": run_base,
  "sweep": run_sweep,
  "100m": run_large,
  "precision": run_precision,
  "profile": run_profile,
}

if __name__ == "__main__":
  main()
