"""Names shared by every module: arrays, batches, and measured variables.

Axis letters, the same everywhere: B batch, T query position, S key position,
D residual width, H heads, K head width, F MLP width, V vocabulary, L layers,
P parameters, M Lanczos order, N probes or seeds.
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
    predictable: true where targets[b, t] is determined by an earlier
      occurrence in the same sequence; in `markov`, where no target is, true
      where the current token has occurred before.
  """

  tokens: Array  # [B, T]
  targets: Array  # [B, T]
  predictable: Array  # [B, T] bool


Sampler = Callable[[Key], Batch]


class Variable(NamedTuple):
  """Declaration of one measured quantity.

  A variable is declared once, by the probe that measures it; the history,
  results.nc and the figures all read that declaration.

  Attributes:
    name: the name in history.jsonl and results.nc. A null value is a variable
      of its own, named `<name>_null`.
    dims: dimension names, `step` first where the value changes with the step.
    long_name: what it is, for an axis label.
    units: its unit; "1" for a pure number.
  """

  name: str
  dims: tuple[str, ...]
  long_name: str
  units: str = "1"
