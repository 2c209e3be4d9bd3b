r"""What a smaller Hessian batch costs in trust, through a transition.

  python experiments/benchmarks/curvature_batch.py --size quick --json x.json

At some moments of a run of `configs/<size>.py`: both ends of the Hessian, its
trace and the gradient's alignment on several held-out batches of each size,
against the largest batch. Differences are relative, medians over draws; the
spread is the standard deviation over draws over the mean.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from problem import K, read_config

from induction_jax import spectra, tasks
from induction_jax.config import Config
from induction_jax.model import losses
from induction_jax.run.experiment import make_experiment
from induction_jax.training.state import TrainState, stream
from induction_jax.training.step import MEASURING_BYTES, fit_cache, make_loss
from induction_jax.types import Array, Key, Params

TOLERANCE, MAX_ORDER, PROBES = 1e-2, 100, 8
# Before, in and after the transition.
MOMENTS = {"quick": (250, 400, 700), "base": (500, 750, 1200)}
# Draws of each size of batch; the largest is the reference.
DRAWS = {
  "quick": {4: 6, 8: 6, 16: 6, 32: 4, 64: 3, 256: 1},
  "base": {8: 6, 16: 6, 32: 4, 64: 3, 256: 1},
}


class Seen(NamedTuple):
  """One measurement."""

  top: Array  # [K]
  bottom: Array  # [K]
  vectors: Params  # of the top, leaves [K, ...]
  trace: Array
  aligned: Array  # share of the gradient in the top space


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--size", default="quick", choices=list(MOMENTS))
  parser.add_argument("--json", type=Path, help="where the figures go")
  options = parser.parse_args()
  config = read_config(options.size)
  experiment = make_experiment(config)
  state, found = experiment.init(), {}
  draws = DRAWS[options.size]
  measures = {
    size: jax.jit(make_measure(config, experiment.model, size))
    for size in draws
  }
  for moment in MOMENTS[options.size]:
    state, _ = experiment.train_chunk(
      state, jnp.int32(moment - int(state.step))
    )
    found[moment] = compare(state, measures, draws)
    print_table(moment, found[moment])
    if options.json:
      options.json.write_text(json.dumps(found, indent=2) + "\n")


def make_measure(
  config: Config, model: Any, size: int
) -> Callable[[TrainState, Key], Seen]:
  """(state, key of a batch) -> what is seen on `size` sequences."""
  weights = losses.make_weights(config.train.loss_tokens)
  loss = make_loss(model, weights)
  sample = tasks.make_sampler(config.task, size)
  platform = jax.default_backend()
  micro_batch = fit_cache(config, size, platform, MEASURING_BYTES)

  def measure(state: TrainState, key: Key) -> Seen:
    batch, params = sample(key), state.params
    counts = jnp.sum(weights(batch), axis=1)
    data = spectra.split_batch(batch, counts, micro_batch)
    hessian = spectra.hessian(loss, params, data)
    # The same starts for all, so that nothing but the batch differs.
    start, probes = jax.random.split(stream(state.key, "spectra"))
    spectrum = spectra.lanczos(
      hessian,
      params,
      start,
      k_top=K,
      k_bottom=K,
      max_order=MAX_ORDER,
      tolerance=TOLERANCE,
    )
    sizes = spectra.estimate_sizes(
      hessian, params, probes, probes=PROBES, deflate=spectrum
    )
    grad = spectra.gradient(loss, params, data)
    vectors = spectrum.top.vectors
    return Seen(
      top=spectrum.top.values,
      bottom=spectrum.bottom.values,
      vectors=vectors,
      trace=sizes.trace.value,
      aligned=jnp.sum(spectra.alignment(grad, vectors)),
    )

  return measure


def compare(
  state: TrainState,
  measures: dict[int, Callable[[TrainState, Key], Seen]],
  draws: dict[int, int],
) -> dict[int, dict[str, float]]:
  """By size of batch, against the largest."""
  key = jax.random.key(1)
  seen = {
    size: [
      jax.device_get(
        measures[size](state, jax.random.fold_in(key, 1000 * size + n))
      )
      for n in range(count)
    ]
    for size, count in draws.items()
  }
  reference = seen[max(draws)][0]
  return {size: summarise(x, reference) for size, x in seen.items()}


def summarise(seen: list[Seen], reference: Seen) -> dict[str, float]:
  def off(values: list[float], true: float) -> float:
    return float(np.median([abs(x - true) / abs(true) for x in values]))

  def spread(values: list[float]) -> float:
    if len(values) < 2:
      return float("nan")
    return float(np.std(values, ddof=1) / abs(np.mean(values)))

  largest = [float(x.top[0]) for x in seen]
  smallest = [float(x.bottom[0]) for x in seen]
  trace = [float(x.trace) for x in seen]
  return {
    "draws": len(seen),
    "largest": float(np.mean(largest)),
    "largest_off": off(largest, float(reference.top[0])),
    "largest_spread": spread(largest),
    "top_off": float(
      np.median([np.abs(x.top / reference.top - 1).mean() for x in seen])
    ),
    "smallest": float(np.mean(smallest)),
    "smallest_off": off(smallest, float(reference.bottom[0])),
    "smallest_spread": spread(smallest),
    "trace": float(np.mean(trace)),
    "trace_off": off(trace, float(reference.trace)),
    "overlap": float(
      np.median([spectra.overlap(x.vectors, reference.vectors) for x in seen])
    ),
    "aligned": float(np.mean([float(x.aligned) for x in seen])),
    "aligned_spread": spread([float(x.aligned) for x in seen]),
  }


def print_table(moment: int, rows: dict[int, dict[str, float]]) -> None:
  print(f"\nstep {moment}\n")
  names = list(next(iter(rows.values())))
  print("| batch | " + " | ".join(names) + " |")
  print("|" + "---|" * (len(names) + 1))
  for size, row in rows.items():
    cells = " | ".join(f"{row[name]:.3g}" for name in names)
    print(f"| {size} | {cells} |", flush=True)


if __name__ == "__main__":
  main()
