"""What a head writes when it is changed: causal evidence for a circuit.

  ablation          the head writes nothing
  mean_ablation     the head writes its mean over all sequences and positions,
                    whatever they are (Wang et al. 2022, arXiv 2211.00593). A
                    mean for each position would be one over B sequences alone,
                    and so give away a B-th of each.
  frozen_ablation   the head writes nothing, and the patterns of all heads
                    stay what they were: what it does through the values of
                    others, and not by where they look ("pattern-preserving",
                    Olsson et al. 2022, arXiv 2209.11895)
  previous_token_pattern, induction_pattern
                    a perfect pattern in place of the head's own: no cost says
                    that nothing else in its pattern matters

Heads of one layer do not see one another: whatever is done to one of them, the
others write what they wrote, and only the layers after it have to be computed
again.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from induction_jax.circuits.ideal import (
  induction_pattern,
  previous_token_pattern,
)
from induction_jax.types import Array

FROZEN = "frozen_ablation"
KINDS = (
  *("ablation", "mean_ablation", FROZEN),
  *("previous_token_pattern", "induction_pattern"),
)


def changed_output(
  kind: Array,
  pattern: Array,
  value: Array,
  write: Callable[[Array], Array],
  mean: Array,
  tokens: Array,
) -> Array:
  """What a head writes under one of KINDS.

  Args:
    kind: its index.
    pattern: the head's own, [B, T, S].
    value: [B, S, K].
    write: what its pattern has mixed [B, T, K] -> what is written [B, T, D].
    mean: of the head's output, over all sequences and positions, [D].
    tokens: [B, T].

  Returns:
    [B, T, D].
  """
  average = jnp.broadcast_to(mean[None, None], (*tokens.shape, mean.size))

  def nothing() -> Array:
    return jnp.zeros_like(average)

  def look(ideal: Array) -> Array:  # [B or 1, T, S]
    ideal = jnp.broadcast_to(ideal, pattern.shape)
    return write(jnp.einsum("bts,bsk->btk", ideal, value))

  def look_back() -> Array:
    return look(previous_token_pattern(tokens.shape[1])[None])

  def look_for_successors() -> Array:
    return look(induction_pattern(pattern[:, None], tokens)[:, 0])

  branches: dict[str, Callable[[], Array]] = {
    "ablation": nothing,
    "mean_ablation": lambda: average,
    FROZEN: nothing,
    "previous_token_pattern": look_back,
    "induction_pattern": look_for_successors,
  }
  return jax.lax.switch(kind, [branches[name] for name in KINDS])
