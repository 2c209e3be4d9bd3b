"""Long vectors laid out in parts, so that each may have a memory of its own.

Lanczos keeps many vectors as long as the parameters. Packed, such a vector is
filled up with zeros to a length that cuts into equal parts; zeros add nothing
to a product or a norm, so packed vectors are worked with as they are. Whoever
asks for a layout says where its parts are to be.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from induction_jax.types import Array


class Layout(NamedTuple):
  """How vectors [P] are kept: as `parts` equal parts, P' = P rounded up.

  Attributes:
    parts: how many.
    split: [..., P'] -> the same, each part of the last axis where it belongs.
    gather: [..., P'] -> the same, whole wherever it is used.
  """

  parts: int
  split: Callable[[Array], Array]
  gather: Callable[[Array], Array]

  def pack(self, vector: Array) -> Array:
    """[P] -> [P']."""
    missing = -vector.size % self.parts
    return self.split(jnp.pad(vector, (0, missing)) if missing else vector)

  def unpack(self, vectors: Array, size: int) -> Array:
    """[..., P'] -> [..., P], whole."""
    whole = self.gather(vectors)
    return whole if whole.shape[-1] == size else whole[..., :size]


def _as_it_is(vectors: Array) -> Array:
  return vectors


WHOLE = Layout(parts=1, split=_as_it_is, gather=_as_it_is)
