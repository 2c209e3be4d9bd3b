"""Types that every room shares: arrays, batches, and measured variables.

Axis letters, the same everywhere: B batch, T query position, S key position,
D residual width, H heads, K head width, F MLP width, V vocabulary, L layers,
P parameters, M Lanczos order, N random vectors or seeds.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

Array = jax.Array
Key = jax.Array  # a typed key, from jax.random.key
PyTree = Any
Params = dict[str, Array]


class Batch(NamedTuple):
  """Sequences for next-token prediction.

  Attributes:
    tokens: the inputs, int32.
    targets: targets[b, t] is the token that follows tokens[b, t].
    predictable: true where an earlier occurrence in the same sequence
      determines targets[b, t]. In `markov`, where no target is determined, true
      where the current token has occurred before.
  """

  tokens: Array  # [B, T]
  targets: Array  # [B, T]
  predictable: Array  # [B, T] bool

  @classmethod
  def from_sequences(cls, sequences: Array, predictable: Array) -> "Batch":
    """Splits sequences [B, T + 1] into tokens and targets."""
    return cls(sequences[..., :-1], sequences[..., 1:], predictable)


Sampler = Callable[[Key], Batch]


class Variable(NamedTuple):
  """Declaration of one measured quantity.

  The measurement declares it, and the history, results.nc and the figures read
  that declaration.

  Attributes:
    name: the name in history.jsonl and results.nc. The null value of `x` is a
      variable of its own, `x_null`.
    dims: names of dimensions, `step` first if the value changes with the step.
    long_name: a description, for axis labels.
    units: the unit; "1" for a pure number.
  """

  name: str
  dims: tuple[str, ...]
  long_name: str
  units: str = "1"
