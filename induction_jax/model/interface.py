"""What a model is, to everyone who uses one: pure functions, named arrays."""

from collections.abc import Callable
from typing import NamedTuple

from induction_jax.types import Array, Key, Params

ROTARY_BASE = 10_000.0


class Convention(NamedTuple):
  """What published models of one shape differ in; the defaults are our own.

  Attributes:
    epsilon: added to the mean square before a norm divides by its root.
    exact_gelu: x Phi(x) itself, and not its approximation by tanh (Hendrycks
      and Gimpel 2016, arXiv 1606.08415, give both).
    parallel: the MLP reads what the heads read, and not what they wrote.
    rotary_width: components of each query and key that are rotated, the first
      ones; None is all.
    rotary_base: of the rotations' frequencies.
  """

  epsilon: float = 1e-6
  exact_gelu: bool = False
  parallel: bool = False
  rotary_width: int | None = None
  rotary_base: float = ROTARY_BASE


OWN_CONVENTION = Convention()


class Activations(NamedTuple):
  """What every head did; XLA drops what the caller does not use."""

  pattern: Array  # [L, B, H, T, S], rows sum to 1
  value: Array  # [L, B, H, S, K], the head's own, whatever becomes of it
  output: Array  # [L, B, H, T, D], what the head adds to the residual
  residual: Array  # [L + 1, B, T, D], before each layer and the final norm


class Edits(NamedTuple):
  """Changes to what heads do: pure functions, applied in every layer.

  What is downstream of a change sees it. None changes nothing.

  Attributes:
    pattern: (layer, pattern [B, H, T, S], tokens [B, T]) -> pattern.
    output: (layer, output [B, H, T, D]) -> output.
  """

  pattern: Callable[[int, Array, Array], Array] | None = None
  output: Callable[[int, Array], Array] | None = None


NO_EDITS = Edits()


class Resumption(NamedTuple):
  """A pass that begins where the heads of a layer have written.

  Attributes:
    layer: which.
    residual: before it, [B, T, D].
    added: what its heads together add to that, [B, T, D], biases left out.
  """

  layer: int
  residual: Array
  added: Array


class Model(NamedTuple):
  """Pure functions, and what they do to heads unasked.

  Attributes:
    init: key -> params.
    apply: (params, tokens [B, T], edits, resumption) -> (logits [B, T, V],
      Activations); without edits and from the embedding where they are left
      out. Resumed, activations are those of the layers that remain, and the
      residuals from before the first of these on.
    predict: (params, tokens [B, T]) -> logits, the same to rounding but
      faster: no pattern is ever whole. What is trained and differentiated.
    clamps: edits that both make in every pass, before any `apply` is given.
    mixes_sequences: whether what is computed of one sequence depends on the
      others of its batch, so that a batch is no sum of its parts.
  """

  init: Callable[[Key], Params]
  apply: Callable[..., tuple[Array, Activations]]
  predict: Callable[[Params, Array], Array]
  clamps: Edits = NO_EDITS
  mixes_sequences: bool = False
