"""Clamped heads: their attention pattern or output is fixed during a run.

Singh et al. 2024 (arXiv 2404.07129) clamp parts of an induction circuit
throughout training to find out which parts the others depend on. A clamped
pattern does not depend on the head's w_q and w_k, whose gradient is therefore
exactly zero.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from induction_jax.circuits import prefix_mask, previous_token_pattern
from induction_jax.config import ConfigError, ModelConfig
from induction_jax.interventions.names import choose, split_list, unknown_name
from induction_jax.model import NO_EDITS, Activations, Edits, Model, Resumption
from induction_jax.types import Array, Params

LEAF = "intervention.clamp"
# The least attention mass x that is scaled up to 1. Below it, the second
# derivative of the quotient, of order 1 / x^3, overflows a float32.
LEAST_MASS = 1e-12


class _Clamp(NamedTuple):
  """A kind of clamp, and the heads it applies to."""

  kind: str
  heads: np.ndarray  # [L, H] bool


def clamp_heads(model: Model, text: str, config: ModelConfig) -> Model:
  """Clamps some heads of a model.

  The returned model is used for training, Hessians and all measurements. Edits
  that a caller passes to it are applied after the clamps. Kinds that clamp the
  attention pattern:

    previous_token: all attention to t - 1; position 0 attends to itself.
    induction: equal attention to every token that followed an earlier
      occurrence of the current token; to itself if there is none.
    no_previous_token: no attention to t - 1, and the rest scaled up to sum
      to 1. If less than LEAST_MASS remains, the position attends to itself.
    no_other_token: every position attends to itself.

  Kinds that clamp the output:

    zero: zero-ablation.
    mean: the mean over the sequences of the batch, at each position (a mean
      over positions would use the future). It is constant under
      differentiation, so the head does not learn. Micro-batches are excluded,
      since each would have a mean of its own.

  Measurements of weights (circuits, memory) are not affected by clamps.

  Args:
    model: the network.
    text: a list of `kind head`, such as `previous_token L0H0, zero L1H*`. The
      last one counts if several set the same activation of a head.
    config: the shape of the network.

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
    return apply(params, tokens)[0]  # because edits need the patterns

  return model._replace(
    apply=apply,
    predict=predict,
    clamps=edits,
    mixes_sequences=_averages_sequences(text),
  )


def _averages_sequences(text: str) -> bool:
  """Whether a clamp makes the output for a sequence depend on the others."""
  return any(item.split()[0] == mean.__name__ for item in split_list(text))


def previous_token(pattern: Array, _: Array) -> Array:
  """All attention to t - 1 (position 0: to itself), [1, 1, T, T]."""
  ideal = previous_token_pattern(pattern.shape[-1])
  return ideal[None, None].astype(pattern.dtype)


def induction(pattern: Array, tokens: Array) -> Array:
  """Equal attention to successors of earlier occurrences, [B, 1, T, T]."""
  found = prefix_mask(tokens)[:, None]
  return _scale_up(found.astype(pattern.dtype))


def no_previous_token(pattern: Array, _: Array) -> Array:
  """The pattern without attention to t - 1, rows scaled to sum to 1."""
  previous = jnp.eye(pattern.shape[-1], k=-1, dtype=bool)[None, None]
  return _scale_up(jnp.where(previous, 0, pattern))


def no_other_token(pattern: Array, _: Array) -> Array:
  """Attention of every position to itself only, [1, 1, T, T]."""
  return jnp.eye(pattern.shape[-1], dtype=pattern.dtype)[None, None]


# Clamps of outputs are linear, so that path ablations can follow them.
def zero(output: Array) -> Array:
  """An output of zero."""
  return jnp.zeros_like(output)


def mean(output: Array) -> Array:  # [B, H, T, D] -> [1, H, T, D]
  """The mean over sequences, constant under differentiation."""
  return jax.lax.stop_gradient(jnp.mean(output, axis=0, keepdims=True))


PATTERNS = {
  f.__name__: f
  for f in (previous_token, induction, no_previous_token, no_other_token)
}
OUTPUTS = {f.__name__: f for f in (zero, mean)}
KINDS = (*PATTERNS, *OUTPUTS)


def _scale_up(mass: Array) -> Array:
  """Scales rows to sum to 1; rows of (almost) 0 attend to themselves."""
  total = jnp.sum(mass, axis=-1, keepdims=True)
  enough = total > LEAST_MASS
  itself = jnp.eye(mass.shape[-1], dtype=mass.dtype)[None, None]
  # The quotient is finite in either case, and so are its derivatives.
  return jnp.where(enough, mass / jnp.where(enough, total, 1), itself)


def _parse(item: str, config: ModelConfig) -> _Clamp:
  words = item.split()
  if len(words) != 2:
    raise ConfigError(
      f"{LEAF} must be a list of `kind head`, such as previous_token L0H0, "
      f"got {item!r}"
    )
  kind, wanted = words
  if kind not in KINDS:
    raise unknown_name(LEAF, kind, KINDS)
  shape = config.n_layers, config.n_heads
  names = [f"L{layer}H{head}" for layer, head in np.ndindex(shape)]
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
  """The given activation for some heads [H], the head's own for the others."""
  return jnp.where(heads[None, :, None, None], given, own)


def _compose(
  first: Callable | None, second: Callable | None
) -> Callable | None:
  """Applies one edit after another; either may be None."""
  if first is None or second is None:
    return first or second

  def both(layer: int, x: Array, *rest: Array) -> Array:
    return second(layer, first(layer, x, *rest), *rest)

  return both
