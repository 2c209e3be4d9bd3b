"""What a smaller Hessian batch costs in trust, through a transition.

Question: how far are eigenvalues, trace and eigenspaces of a small held-out
batch from those of 256 sequences?

  python -m experiments.hessian_batch --size quick --json quick.json

At three steps of a run of configs/<size>.py, before, in and after the
transition, both ends of the spectrum, the trace and the gradient's alignment
are measured on several held-out batches of each size.

Prints: one row for each step and batch size. Differences from the largest batch
are relative, and medians over draws. The spread is the standard deviation over
draws divided by the mean.
Takes: some 10 minutes for quick on 2 CPU cores; base needs a GPU.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.shared.networks import find_ends, read_config
from experiments.shared.reporting import (
  format_table,
  make_parser,
  make_table,
  report,
)
from induction_jax import spectra, tasks
from induction_jax.config import Config
from induction_jax.model import losses
from induction_jax.run.experiment import make_experiment
from induction_jax.training.memory import MEASURING_BYTES, fit_cache
from induction_jax.training.state import TrainState, stream
from induction_jax.training.step import make_loss
from induction_jax.types import Array, Key, Params

TOLERANCE, MAX_ORDER, PROBE_VECTORS = 1e-2, 100, 8
# Before, in and after the transition.
MOMENTS = {"quick": (250, 400, 700), "base": (500, 750, 1200)}
# Draws of each batch size; the largest is the reference.
DRAWS = {
  "quick": {4: 6, 8: 6, 16: 6, 32: 4, 64: 3, 256: 1},
  "base": {8: 6, 16: 6, 32: 4, 64: 3, 256: 1},
}


class Measured(NamedTuple):
  """What is measured on one batch."""

  top: Array  # [K]
  bottom: Array  # [K]
  vectors: Params  # of the top, leaves [K, ...]
  trace: Array
  aligned: Array  # share of the squared gradient in the top space


Measure = Callable[[TrainState, Key], Measured]


def main(argv: list[str] | None = None) -> None:
  parser = make_parser(__doc__)
  parser.add_argument("--size", default="quick", choices=list(MOMENTS))
  options = parser.parse_args(argv)
  config, draws = read_config(options.size), DRAWS[options.size]
  experiment = make_experiment(config)
  measures = {
    size: jax.jit(make_measure(config, experiment.model, size))
    for size in draws
  }
  state, rows = experiment.init(), []
  for moment in MOMENTS[options.size]:
    steps = jnp.int32(moment - int(state.step))
    state, _ = experiment.train_chunk(state, steps)
    for size, row in compare(state, measures, draws).items():
      rows.append({"step": moment, "batch": size} | row)
    print(format_table(make_table(rows)), flush=True)
  report({"batches": make_table(rows)}, options.json)


def make_measure(config: Config, model: Any, size: int) -> Measure:
  """The measurement on `size` sequences drawn with a key."""
  weights = losses.make_weights(config.train.loss_tokens)
  loss = make_loss(model, weights)
  sample = tasks.make_sampler(config.task, size)
  platform = jax.default_backend()
  micro_batch = fit_cache(config, size, platform, MEASURING_BYTES)

  def measure(state: TrainState, key: Key) -> Measured:
    batch, params = sample(key), state.params
    counts = jnp.sum(weights(batch), axis=1)
    data = spectra.split_batch(batch, counts, micro_batch)
    hessian = spectra.hessian(loss, params, data)
    # All sizes share these keys, so that only the batch differs.
    start, trace_key = jax.random.split(stream(state.key, "spectra"))
    spectrum = find_ends(
      hessian, params, start, tolerance=TOLERANCE, max_order=MAX_ORDER
    )
    sizes = spectra.estimate_sizes(
      hessian, params, trace_key, probes=PROBE_VECTORS, deflate=spectrum
    )
    grad = spectra.gradient(loss, params, data)
    vectors = spectrum.top.vectors
    return Measured(
      top=spectrum.top.values,
      bottom=spectrum.bottom.values,
      vectors=vectors,
      trace=sizes.trace.value,
      aligned=jnp.sum(spectra.alignment(grad, vectors)),
    )

  return measure


def compare(
  state: TrainState, measures: dict[int, Measure], draws: dict[int, int]
) -> dict[int, dict[str, float | None]]:
  """A row for each batch size, compared with the largest."""
  key = jax.random.key(1)
  measured = {
    size: [
      jax.device_get(
        measures[size](state, jax.random.fold_in(key, 1000 * size + n))
      )
      for n in range(count)
    ]
    for size, count in draws.items()
  }
  reference = measured[max(draws)][0]
  return {size: summarise(x, reference) for size, x in measured.items()}


def summarise(
  measured: list[Measured], reference: Measured
) -> dict[str, float | None]:
  """The columns of one batch size."""

  def off(values: list[float], exact: float) -> float:
    return float(np.median([abs(x - exact) / abs(exact) for x in values]))

  def spread(values: list[float]) -> float | None:
    if len(values) < 2:
      return None
    return float(np.std(values, ddof=1) / abs(np.mean(values)))

  largest = [float(x.top[0]) for x in measured]
  smallest = [float(x.bottom[0]) for x in measured]
  trace = [float(x.trace) for x in measured]
  aligned = [float(x.aligned) for x in measured]
  tops = [np.abs(x.top / reference.top - 1).mean() for x in measured]
  overlaps = [spectra.overlap(x.vectors, reference.vectors) for x in measured]
  return {
    "draws": len(measured),
    "largest": float(np.mean(largest)),
    "largest off": off(largest, float(reference.top[0])),
    "largest spread": spread(largest),
    "ten largest off": float(np.median(tops)),
    "smallest": float(np.mean(smallest)),
    "smallest off": off(smallest, float(reference.bottom[0])),
    "smallest spread": spread(smallest),
    "trace": float(np.mean(trace)),
    "trace off": off(trace, float(reference.trace)),
    "overlap of top spaces": float(np.median(overlaps)),
    "gradient in the top space": float(np.mean(aligned)),
    "gradient spread": spread(aligned),
  }


if __name__ == "__main__":
  main()
