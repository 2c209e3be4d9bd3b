"""Eigenpairs as the config wants them, with bounds that hold."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from induction_jax import spectra
from induction_jax.config import SpectraConfig
from induction_jax.types import Array, Key, Params, PyTree


class Wanted(NamedTuple):
  """One spectrum of a measurement: that of D A D for a diagonal D."""

  prefix: str  # of its variables
  scale: PyTree  # D
  k_top: int
  k_bottom: int
  key: Key
  start: PyTree | None = None  # of Lanczos; None for a random one


Solve = Callable[[spectra.Operator, Params, Wanted], spectra.Spectrum]


def make_solve(
  c: SpectraConfig, basis: int, layout: spectra.VectorSharding
) -> Solve:
  """Lanczos with a basis of so many rows, or the dense matrix if `exact`."""

  def solve(
    operator: spectra.Operator, params: Params, wanted: Wanted
  ) -> spectra.Spectrum:
    operator = spectra.rescale(operator, wanted.scale)
    ks = {"k_top": wanted.k_top, "k_bottom": wanted.k_bottom}
    if c.exact:
      return spectra.exact_spectrum(operator, params, **ks)[0]
    return spectra.lanczos(
      operator,
      params,
      wanted.key,
      max_order=c.max_order,
      max_basis=basis,
      tolerance=c.tolerance,
      start=wanted.start,
      sharding=layout,
      **ks,
    )

  return solve


def find_largest(
  solve: Solve, operator: spectra.Operator, params: Params, k: int, key: Key
) -> spectra.Eigenpairs:
  """The k largest eigenvalues, signed, and their vectors."""
  ones = jax.tree.map(jnp.ones_like, params)
  return solve(operator, params, Wanted("", ones, k, 0, key)).top


def find_spectra(
  solve: Solve,
  tolerance: float,
  operator: spectra.Operator,
  operator_at: Callable[[Params], spectra.Operator],
  params: Params,
  key: Key,
  wanted: Sequence[Wanted],
) -> dict[str, spectra.Spectrum]:
  """Spectra by prefix, their residual bounds widened by measured rounding.

  Args:
    solve: from make_solve.
    tolerance: that of the solver.
    operator: A at `params`.
    operator_at: params -> A there, to see what units of rounding change.
    params: where.
    key: for the directions of those changes.
    wanted: the spectra of A.
  """
  found = [solve(operator, params, each) for each in wanted]
  scales = jax.tree.map(
    lambda *x: jnp.stack(x), *(each.scale for each in wanted)
  )

  def rounding(each: tuple[Array, PyTree, Key]) -> Array:
    owner, vector, key = each
    scale = jax.tree.map(lambda x: x[owner], scales)
    return spectra.rounding_error(
      jax.tree.map(lambda x: x[None], vector),
      lambda params: spectra.rescale(operator_at(params), scale),
      params,
      key,
    )

  # Mapped, not repeated: the product is compiled once for all of them.
  ends = [spectra.extremes(spectrum) for spectrum in found]
  owners = np.repeat(
    np.arange(len(ends)), [len(jax.tree.leaves(end)[0]) for end in ends]
  )
  vectors = jax.tree.map(lambda *x: jnp.concatenate(x), *ends)
  keys = jax.random.split(key, len(wanted))[owners]
  added = jax.lax.map(rounding, (jnp.asarray(owners), vectors, keys))
  return {
    want.prefix: spectra.add_rounding(
      spectrum, jnp.max(added[owners == i]), tolerance
    )
    for i, (want, spectrum) in enumerate(zip(wanted, found))
  }
