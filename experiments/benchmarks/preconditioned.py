r"""The largest preconditioned eigenvalue, sought alone or with the smallest.

  python experiments/benchmarks/preconditioned.py --size quick
  python experiments/benchmarks/preconditioned.py --size base \
    --config.spectra.batch_size=16

At some moments of a run of `configs/<size>.py`, Lanczos at the run's tolerance
from several starts: products, and how far off the eigenvalue is of one that has
converged to 1e-4. Products are Lanczos' own, without those for rounding.
"""

import argparse
import dataclasses
import statistics
from collections.abc import Callable

import jax
import jax.numpy as jnp
from problem import read_config

from induction_jax import spectra
from induction_jax.measurements import HeldOut, make_curvature
from induction_jax.measurements.solve import Wanted
from induction_jax.run.experiment import Experiment, make_experiment
from induction_jax.training.state import TrainState
from induction_jax.types import Key

# Before, in and after the transition.
MOMENTS = {
  "quick": (1, 20, 100, 250, 350, 400, 450, 700, 1000, 2000),
  "base": (100, 700, 800),
}
STARTS = 5
# (pairs at the top, at the bottom)
WAYS = {"alone": (1, 0), "with the smallest": (1, 1)}

Solve = Callable[[TrainState, HeldOut, Key], spectra.Spectrum]


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--size", default="quick", choices=list(MOMENTS))
  options, overrides = parser.parse_known_args()
  config = read_config(options.size, tuple(overrides))
  experiment = make_experiment(config)
  tolerance = config.spectra.tolerance
  ways = {
    name: make_solve(experiment, *ks, tolerance) for name, ks in WAYS.items()
  }
  reference = make_solve(experiment, 2, 0, 1e-4)
  state = experiment.init()
  held_out = experiment.draw(state.key)
  print(
    "| step | eigenvalue | " + " | ".join(f"{x} | off" for x in ways) + " |"
  )
  print("|---|---|" + "---|---|" * len(ways), flush=True)
  for moment in MOMENTS[options.size]:
    steps = jnp.int32(moment - int(state.step))
    state, _ = experiment.train_chunk(state, steps)
    true = float(reference(state, held_out, jax.random.key(9)).top.values[0])
    cells = [try_out(solve, state, held_out, true) for solve in ways.values()]
    print(f"| {moment} | {true:.5g} | " + " | ".join(cells) + " |", flush=True)


def make_solve(
  experiment: Experiment, k_top: int, k_bottom: int, tolerance: float
) -> Solve:
  """The run's own Lanczos on the Hessian as AdamW rescales it."""
  own, optim = experiment.config, experiment.config.optim
  strict = dataclasses.replace(own.spectra, tolerance=tolerance)
  config = dataclasses.replace(own, spectra=strict)
  curvature = make_curvature(config, experiment.model)

  @jax.jit
  def solve(state: TrainState, held_out: HeldOut, key: Key) -> spectra.Spectrum:
    scale = spectra.adam_preconditioner(
      state.opt_state, optim.learning_rate, optim.b1, optim.b2, optim.eps
    ).inverse_sqrt
    wanted = Wanted("", scale, k_top, k_bottom, key)
    hessian = curvature.prepare(state, held_out)
    return curvature.solve(hessian, state.params, wanted)

  return solve


def try_out(
  solve: Solve, state: TrainState, held_out: HeldOut, true: float
) -> str:
  """Products in the mean, and the largest relative error, over the starts."""
  found = [
    solve(state, held_out, jax.random.key(start)) for start in range(STARTS)
  ]
  products = statistics.mean(int(x.products) for x in found)
  off = max(abs(float(x.top.values[0]) / true - 1) for x in found)
  return f"{products:.0f} | {off:.1e}"


if __name__ == "__main__":
  main()
