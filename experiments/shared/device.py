"""What a device can do, and how much arithmetic and memory a program needs."""

import resource
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from experiments.shared.timing import timed
from induction_jax.config import Config

LOOP = 10  # matrix products or copies in one program
REPEATS = 5
# Cost of derivatives in forward passes, counting matrix products only. The
# gradient of Y = X W takes two more products, and the tangent of each of the
# three takes two. A linear map has computed the first three beforehand.
GRADIENT_PASSES = 3
PRODUCT_PASSES = {"linear map": 6, "streamed": 9}


def measure_peaks(size: int) -> dict[str, float]:
  """Operations per second in products of [size, size], bytes copied per second.

  The products are named by the precision of their float32 arithmetic, where
  "default" is TF32 on recent GPUs.
  """
  # Multiplying by this matrix keeps the size of the numbers.
  x = jax.random.normal(jax.random.key(0), (size, size)) / size**0.5
  half = x.astype(jnp.bfloat16)
  operations = 2.0 * size**3
  peaks = {
    name: operations / _seconds_each(_multiply(precision), (factor, factor))
    for name, precision, factor in (
      ("float32_default", "default", x),
      ("float32_highest", "highest", x),
      ("bfloat16", "default", half),
    )
  }
  large = jnp.zeros((16, *x.shape))
  copied = 2.0 * large.nbytes  # read once and written once
  peaks["bytes"] = copied / _seconds_each(lambda x: x + 1, large)
  return peaks


def _multiply(precision: str) -> Callable[[Any], Any]:
  return lambda xy: (xy[0], jnp.matmul(*xy, precision=precision))


def _seconds_each(function: Callable[[Any], Any], start: Any) -> float:
  """Seconds of one application in the fastest loop, without compilation."""
  loop = jax.jit(
    lambda x: jax.lax.fori_loop(0, LOOP, lambda _, x: function(x), x)
  )
  jax.block_until_ready(loop(start))
  return min(timed(lambda: loop(start))[0] for _ in range(REPEATS)) / LOOP


def peak_bytes() -> int | None:
  """Peak device memory of this process, None where the device reports none."""
  stats = jax.devices()[0].memory_stats()
  return stats["peak_bytes_in_use"] if stats else None


def peak_resident() -> float:
  """Peak resident memory of this process in MB."""
  unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, KiB here
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def planned_bytes(compiled: Any) -> int:
  """Peak memory of a compiled program according to XLA's plan."""
  plan = compiled.memory_analysis()
  return (
    plan.argument_size_in_bytes
    + plan.output_size_in_bytes
    + plan.temp_size_in_bytes
    - plan.alias_size_in_bytes
  )


def forward_operations(config: Config) -> float:
  """Floating-point operations of the matrix products in one sequence's pass.

  Counts weights and the pairs of positions t >= s. Exponentials, norms and
  products that the causal mask discards are not counted.
  """
  model, length = config.model, config.task.seq_length
  layer = 4 * model.d_model**2 + 2 * model.d_model * model.d_mlp
  weights = model.n_layers * layer + model.d_model * config.task.vocab_size
  pairs = model.n_layers * model.d_model * (length + 1)  # half of the keys
  return 2.0 * length * (weights + pairs)


def step_operations(config: Config) -> float:
  """Floating-point operations of one update, without the optimiser's."""
  passes = GRADIENT_PASSES * config.train.batch_size
  return passes * forward_operations(config)
