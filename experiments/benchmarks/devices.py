r"""A run on one device, on several, in several processes: how they differ.

  python experiments/benchmarks/devices.py --json devices.json

Each is a run of `quick` from the command line, of so many steps, measured at
its first, middle and last; the devices are virtual ones of this CPU, and the
processes find one another on the loopback. What is compared is read from their
directories: of every quantity the largest difference from one device, over the
largest magnitude.
"""

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
import xarray as xr

from induction_jax.run.experiment import make_reader
from induction_jax.run.snapshots import load_or_init
from induction_jax.storage.run_directory import load_run

# Devices that share batches, and those that share the basis; processes.
CASES = {
  "1 device": (1, 1, 1),
  "2 devices, batch": (2, 1, 1),
  "8 devices, batch": (8, 1, 1),
  "8 devices, basis": (1, 8, 1),
  "8 devices, both": (8, 8, 1),
  "2 processes, both": (2, 2, 2),
}
MEASURED = {
  "loss": "train_loss",
  "top eigenvalues": "top_eigenvalues",
  "bottom eigenvalues": "bottom_eigenvalues",
  "preconditioned": "preconditioned_top_eigenvalues",
}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--steps", type=int, default=200, help="default 200")
  parser.add_argument("--cases", nargs="+", default=list(CASES)[1:])
  parser.add_argument("--json", type=Path, help="where the figures go")
  options = parser.parse_args()
  sys.stdout.reconfigure(line_buffering=True)  # a run takes minutes
  with tempfile.TemporaryDirectory() as folder:
    roots = {}
    for name in [next(iter(CASES)), *options.cases]:
      roots[name] = Path(folder) / name.replace(" ", "_")
      train(roots[name], *CASES[name], options.steps)
      print(f"{name}: trained")
    one, *others = roots
    figures = {
      name: compare(roots[name], roots[one], options.steps) for name in others
    }
  print_table(figures)
  if options.json:
    options.json.write_text(json.dumps(figures, indent=2) + "\n")


def train(root: Path, data: int, params: int, processes: int, steps: int):
  """A run to its end, by as many processes."""
  half = steps // 2
  command = [
    sys.executable,
    "-m",
    "induction_jax.train",
    "--config=configs/quick.py",
    f"--workdir={root}",
    f"--config.mesh.data={data}",
    f"--config.mesh.params={params}",
    f"--config.train.num_steps={steps}",
    f"--config.checkpoint.interval={steps}",
    f"--config.behaviour.interval={half}",
    f"--config.spectra.eigen_interval={half}",
    "--config.circuits.interval=0",
    "--config.ablation.interval=0",
  ]
  devices = max(data, params) // processes
  count = f"--xla_force_host_platform_device_count={devices}"
  flags = f"{os.environ.get('XLA_FLAGS', '')} {count}"
  environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
  if processes > 1:
    command += [
      "--distributed",
      f"--coordinator=localhost:{free_port()}",
      f"--num_processes={processes}",
    ]
  with contextlib.ExitStack() as stack:
    running = []
    for i in range(processes):
      own = [f"--process_id={i}"] if processes > 1 else []
      started = subprocess.Popen(
        command + own, env=environment, stdout=subprocess.DEVNULL
      )
      running.append(stack.enter_context(started))
      stack.callback(started.kill)
    statuses = [each.wait(timeout=1800) for each in running]
  if any(statuses):
    sys.exit(f"{root.name} ended with {statuses}")


def free_port() -> int:
  with socket.socket() as listener:
    listener.bind(("localhost", 0))
    return listener.getsockname()[1]


def compare(root: Path, one: Path, steps: int) -> dict[str, float]:
  """Differences after the first and the last step."""
  parameters, expected = (_parameters(path) for path in (root, one))
  found = {f"parameters at {steps}": difference(parameters, expected)}
  with (
    xr.open_dataset(root / "results.nc") as results,
    xr.open_dataset(one / "results.nc") as expected,
  ):
    for told, name in MEASURED.items():
      for step in (0, steps):
        pair = [x[name].sel(step=step).values for x in (results, expected)]
        if np.isfinite(pair[1]).any():
          found[f"{told} at {step}"] = difference(*pair)
  return found


def difference(found: np.ndarray, expected: np.ndarray) -> float:
  gap = np.nanmax(np.abs(np.float64(found) - np.float64(expected)))
  return float(gap / np.nanmax(np.abs(expected)))


def _parameters(root: Path) -> np.ndarray:
  directory, config = load_run(root)
  state = load_or_init(make_reader(config), directory)[0].state
  leaves = jax.tree.leaves(jax.device_get(state.params))
  return np.concatenate([x.ravel() for x in leaves])


def print_table(figures: dict[str, dict[str, float]]) -> None:
  names = list(figures)
  print("\n| largest relative difference | " + " | ".join(names) + " |")
  print("|---" * (len(names) + 1) + "|")
  for quantity in figures[names[0]]:
    row = [f"{figures[name][quantity]:.1e}" for name in names]
    print(f"| {quantity} | " + " | ".join(row) + " |")


if __name__ == "__main__":
  main()
