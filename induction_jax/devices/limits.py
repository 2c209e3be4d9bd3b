"""Limits of this machine: its memory, and LAPACK calls on its CPU.

A file or a config may ask for at most half of the machine's memory, and that is
checked before anything is allocated.
"""

import os
from collections.abc import Callable
from typing import TypeVar

import jax

from induction_jax.config import ConfigError
from induction_jax.types import Array

GIB = 2**30

Factors = TypeVar("Factors")


def check_fits(what: str, needed: int) -> None:
  """Checks a number of bytes before any of them is allocated.

  Args:
    what: what needs the memory; the subject of the error message.
    needed: bytes, a lower bound.

  Raises:
    ConfigError: if they exceed half of this machine's memory.
  """
  allowed = memory_bytes() // 2
  if needed > allowed:
    raise ConfigError(
      f"{what} must take at most half of this machine's memory, "
      f"{allowed / GIB:.3g} GiB, got {_in_gib(needed)} GiB"
    )


def memory_bytes() -> int:
  """The physical memory of this machine."""
  return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def sequential_on_cpu(decompose: Callable[[Array], Factors]) -> Callable:
  """Makes vmap of a matrix decomposition a sequential loop on a CPU.

  jaxlib distributes a batched LAPACK call over the threads that run the
  program, and blocks until they are done. When as many batched calls run at
  once as there are threads, they deadlock. This happened with jax 0.10 and 0.12
  on two cores: in two independent while loops, in independent calls, and on two
  virtual devices. On other platforms the batched call is kept.

  Args:
    decompose: a function of one matrix.
  """
  in_sequence = jax.custom_batching.sequential_vmap(decompose)

  def decompose_one(matrix: Array) -> Factors:
    return jax.lax.platform_dependent(
      matrix, cpu=in_sequence, default=decompose
    )

  return decompose_one


def _in_gib(needed: int) -> str:
  gib = needed // GIB  # an integer, because a float cannot hold every size
  return f"{needed / GIB:.3g}" if gib < 10**6 else "more than a million"
