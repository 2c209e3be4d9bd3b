"""Heads clamped for a whole run: their pattern, or their output, is given.

The causal method of Singh et al. 2024 (arXiv 2404.07129), who clamp parts of
an induction circuit throughout training to learn which of them the others wait
for. A clamped pattern does not depend on the head's w_q and w_k, so these get
a gradient of exactly zero.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from induction_jax.circuits import prefix_mask, previous_token_pattern
from induction_jax.config import ConfigError, ModelConfig
from induction_jax.interventions.names import (
  choose,
  split_list,
  unknown_name,
)
from induction_jax.model import (
  NO_EDITS,
  Activations,
  Edits,
  Model,
  Resumption,
)
from induction_jax.types import Array, Params

LEAF = "intervention.clamp"
# The least attention that can be scaled up to 1: of less, the second
# derivative of the quotient, 1 / x^3, is not a float32.
LEAST_MASS = 1e-12


class _Clamp(NamedTuple):
  """One kind of clamp, and the heads it is for."""

  kind: str
  heads: np.ndarray  # [L, H] bool


def clamp_heads(model: Model, text: str, config: ModelConfig) -> Model:
  """A model some of whose heads do what they are told.

  This is the network of the whole run: training, Hessians and every
  measurement see the same clamps. Edits that a caller asks for come after
  them. What KINDS says of a pattern:

    previous_token: all attention to t - 1; position 0 attends to itself.
    induction: equal attention to every token that followed an earlier
      occurrence of the current one; a position without any, to itself.
    no_previous_token: none to t - 1, the rest scaled up to sum to 1. Where
      less than LEAST_MASS is left, the position attends to itself.
    no_other_token: every position attends to itself.

  and of an output:

    zero: the head writes nothing.
    mean: it writes its mean over the sequences of the batch, at each position
      (a mean over positions would tell of the future). Constant to
      derivatives: the head does not learn through it. Of a micro-batch it
      would be the mean over that alone, so there may be none.

  Scores of weights (circuits, memories) are of the weights as they are, also
  those of a head whose output is clamped.

  Args:
    model: the network.
    text: a list of `kind layer.head`, such as `previous_token 0.0, zero 1.*`;
      of several for one head the last counts.
    config: the network's shape.

  Raises:
    ConfigError: if a kind or a head does not exist.
  """
  edits = _make_edits([_parse(item, config) for item in split_list(text)])
  if edits == NO_EDITS:
    return model

  def apply(
    params: Params,
    tokens: Array,
    more: Edits = NO_EDITS,
    resumption: Resumption | None = None,
  ) -> tuple[Array, Activations]:
    both = Edits(*(_compose(a, b) for a, b in zip(edits, more)))
    return model.apply(params, tokens, both, resumption)

  def predict(params: Params, tokens: Array) -> Array:
    return apply(params, tokens)[0]  # an edit may need the pattern

  return model._replace(
    apply=apply,
    predict=predict,
    clamps=edits,
    mixes_sequences=_averages_sequences(text),
  )


def _averages_sequences(text: str) -> bool:
  """Whether a list of clamps makes one sequence depend on the others."""
  return any(item.split()[0] == mean.__name__ for item in split_list(text))


def previous_token(pattern: Array, _: Array) -> Array:
  """All attention to t - 1, [1, 1, T, T]; position 0 attends to itself."""
  ideal = previous_token_pattern(pattern.shape[-1])
  return ideal[None, None].astype(pattern.dtype)


def induction(pattern: Array, tokens: Array) -> Array:
  """Equal attention to what followed earlier occurrences, [B, 1, T, T]."""
  found = prefix_mask(tokens)[:, None]
  return _scale_up(found.astype(pattern.dtype))


def no_previous_token(pattern: Array, _: Array) -> Array:
  """The pattern without its attention to t - 1, rows summing to 1."""
  previous = jnp.eye(pattern.shape[-1], k=-1, dtype=bool)[None, None]
  return _scale_up(jnp.where(previous, 0, pattern))


def no_other_token(pattern: Array, _: Array) -> Array:
  """Attention of every position to itself alone, [1, 1, T, T]."""
  return jnp.eye(pattern.shape[-1], dtype=pattern.dtype)[None, None]


# Clamps of outputs are linear in them: paths are followed through.
def zero(output: Array) -> Array:
  """Nothing written."""
  return jnp.zeros_like(output)


def mean(output: Array) -> Array:  # [B, H, T, D] -> [1, H, T, D]
  """The mean over the sequences, constant to derivatives."""
  return jax.lax.stop_gradient(jnp.mean(output, axis=0, keepdims=True))


PATTERNS = {
  f.__name__: f
  for f in (previous_token, induction, no_previous_token, no_other_token)
}
OUTPUTS = {f.__name__: f for f in (zero, mean)}
KINDS = (*PATTERNS, *OUTPUTS)


def _scale_up(mass: Array) -> Array:
  """Rows to sum to 1; those of (almost) nothing attend to themselves."""
  total = jnp.sum(mass, axis=-1, keepdims=True)
  enough = total > LEAST_MASS
  itself = jnp.eye(mass.shape[-1], dtype=mass.dtype)[None, None]
  # The quotient is safe on both sides of the choice, for its derivatives.
  return jnp.where(enough, mass / jnp.where(enough, total, 1), itself)


def _parse(item: str, config: ModelConfig) -> _Clamp:
  words = item.split()
  if len(words) != 2:
    raise ConfigError(
      f"{LEAF} must be a list of `kind layer.head`, such as previous_token "
      f"0.0, got {item!r}"
    )
  kind, wanted = words
  if kind not in KINDS:
    raise unknown_name(LEAF, kind, KINDS)
  shape = config.n_layers, config.n_heads
  names = [f"{layer}.{head}" for layer, head in np.ndindex(shape)]
  chosen = choose(LEAF, wanted, names)
  heads = np.array([name in chosen for name in names])
  return _Clamp(kind, heads.reshape(shape))


def _make_edits(clamps: list[_Clamp]) -> Edits:
  patterns = [clamp for clamp in clamps if clamp.kind in PATTERNS]
  outputs = [clamp for clamp in clamps if clamp.kind in OUTPUTS]

  def edit_pattern(layer: int, pattern: Array, tokens: Array) -> Array:
    for kind, heads in patterns:
      given = PATTERNS[kind](pattern, tokens)
      pattern = _choose_heads(heads[layer], given, pattern)
    return pattern

  def edit_output(layer: int, output: Array) -> Array:
    for kind, heads in outputs:
      output = _choose_heads(heads[layer], OUTPUTS[kind](output), output)
    return output

  return Edits(
    edit_pattern if patterns else None, edit_output if outputs else None
  )


def _choose_heads(heads: np.ndarray, given: Array, own: Array) -> Array:
  """What is given for some heads [H], and its own for the others."""
  return jnp.where(heads[None, :, None, None], given, own)


def _compose(
  first: Callable | None, second: Callable | None
) -> Callable | None:
  """One edit after another; either may be none."""
  if first is None or second is None:
    return first or second

  def both(layer: int, x: Array, *rest: Array) -> Array:
    return second(layer, first(layer, x, *rest), *rest)

  return both
