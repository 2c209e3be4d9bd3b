"""What a device can do: measured peaks, and what a network asks of them."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from induction_jax.config import Config

LOOP = 10  # products or copies in one program
REPEATS = 5
# Passes forward that derivatives cost, in matrix products alone: a product
# Y = X W has two for its gradient, and each of the three has two for its
# tangent. A linear map has made the first three beforehand.
GRADIENT_PASSES = 3
PRODUCT_PASSES = {"linear map": 6, "streamed": 9}


def measure_peaks(size: int) -> dict[str, float]:
  """Operations a second in products of [size, size], bytes a second copied.

  By the precision of float32 products: "default" is TF32 on recent GPUs.
  """
  # Multiplying by it keeps a matrix' size, so that no number leaves its range.
  x = jax.random.normal(jax.random.key(0), (size, size)) / size**0.5
  half = x.astype(jnp.bfloat16)
  operations = 2.0 * size**3
  peaks = {
    name: operations / seconds_each(multiply(precision), (factor, factor))
    for name, precision, factor in (
      ("float32_default", "default", x),
      ("float32_highest", "highest", x),
      ("bfloat16", "default", half),
    )
  }
  large = jnp.zeros((16, *x.shape))
  # Read once and written once.
  copied = 2.0 * large.nbytes
  peaks["bytes"] = copied / seconds_each(lambda x: x + 1, large)
  return peaks


def multiply(precision: str) -> Callable[[Any], Any]:
  return lambda xy: (xy[0], jnp.matmul(*xy, precision=precision))


def seconds_each(function: Callable[[Any], Any], start: Any) -> float:
  """Of one application, the fastest of some loops; compilation not counted."""
  loop = jax.jit(
    lambda x: jax.lax.fori_loop(0, LOOP, lambda _, x: function(x), x)
  )
  jax.block_until_ready(loop(start))
  seconds = []
  for _ in range(REPEATS):
    begun = time.perf_counter()
    jax.block_until_ready(loop(start))
    seconds.append(time.perf_counter() - begun)
  return min(seconds) / LOOP


def peak_bytes() -> int | None:
  """The most this process has held on the device; None where none can say."""
  stats = jax.devices()[0].memory_stats()
  return stats["peak_bytes_in_use"] if stats else None


def planned_bytes(compiled: Any) -> int:
  """What a program holds at its height, as XLA has planned it."""
  plan = compiled.memory_analysis()
  return (
    plan.argument_size_in_bytes
    + plan.output_size_in_bytes
    + plan.temp_size_in_bytes
    - plan.alias_size_in_bytes
  )


def forward_operations(config: Config) -> float:
  """Of matrix products in a pass over one sequence.

  Of weights, and of pairs of positions t >= s: no exponentials, no norms, and
  none of what a causal mask throws away.
  """
  model, length = config.model, config.task.seq_length
  layer = 4 * model.d_model**2 + 2 * model.d_model * model.d_mlp
  weights = model.n_layers * layer + model.d_model * config.task.vocab_size
  pairs = model.n_layers * model.d_model * (length + 1)  # of half the keys
  return 2.0 * length * (weights + pairs)


def step_operations(config: Config) -> float:
  """Of one update, the optimiser's left out."""
  passes = GRADIENT_PASSES * config.train.batch_size
  return passes * forward_operations(config)
