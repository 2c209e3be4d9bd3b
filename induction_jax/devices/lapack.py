"""Decompositions of matrices, under jit and vmap."""

from collections.abc import Callable
from typing import TypeVar

import jax

from induction_jax.types import Array

Parts = TypeVar("Parts")


def one_at_a_time(decompose: Callable[[Array], Parts]) -> Callable:
  """The same of one matrix, but that under vmap a CPU takes one after another.

  jaxlib spreads a batch over the threads that run the program, and waits: as
  many batches at once as there are threads wait for ever (seen with jax 0.10
  and 0.12 on two cores, in two independent while loops, in independent calls
  and on two virtual devices). Elsewhere it is a batch as any.

  Args:
    decompose: what is done to one matrix.
  """
  alone = jax.custom_batching.sequential_vmap(decompose)

  def decompose_one(matrix: Array) -> Parts:
    return jax.lax.platform_dependent(matrix, cpu=alone, default=decompose)

  return decompose_one
