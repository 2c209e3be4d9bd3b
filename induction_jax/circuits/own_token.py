"""How often a [V, V] circuit ranks a token's own entry among its highest."""

import jax
import jax.numpy as jnp

from induction_jax.types import Array

ROWS = 1024  # of a [V, V] circuit held at a time


@jax.default_matmul_precision("highest")
def own_token_fraction(
  embed: Array, left: Array, right: Array, unembed: Array, k: int
) -> Array:
  """Share of the rows of embed left right^T unembed^T led by their diagonal.

  A row counts if fewer than k other entries are as high as its diagonal one,
  so that a circuit that tells no tokens apart has none. Random circuits have
  k / V in the mean: rows of one are exchangeable in their columns.

  Args:
    embed: [V, D].
    left: [L, H, D, K].
    right: [L, H, D, K].
    unembed: [V, D].
    k: from 1 to V.

  Returns:
    [L, H]. Cost: 2 V^2 K operations a head, ROWS x V numbers of memory.
  """
  tokens = jnp.arange(embed.shape[0])

  def of_head(factors: tuple[Array, Array]) -> Array:
    read, write = embed @ factors[0], unembed @ factors[1]  # [V, K]

    def is_led(token: Array) -> Array:
      entries = write @ read[token]  # [V]
      return jnp.sum(entries >= entries[token]) <= k  # itself among them

    rows = min(ROWS, tokens.size)
    return jnp.mean(jax.lax.map(is_led, tokens, batch_size=rows))

  heads = left.shape[:2]
  flat = (x.reshape(-1, *x.shape[2:]) for x in (left, right))
  return jax.lax.map(of_head, tuple(flat)).reshape(heads)
