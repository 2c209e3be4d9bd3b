"""Extreme eigenpairs with residual bounds that include rounding."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from induction_jax import spectra
from induction_jax.config import SpectraConfig
from induction_jax.types import Array, Key, Params, PyTree


class SpectrumRequest(NamedTuple):
  """A request for extreme eigenpairs of D A D, with a diagonal matrix D.

  Attributes:
    prefix: the prefix of the variables' names.
    scale: the diagonal of D, shaped like the parameters.
    k_top: the number of largest eigenpairs.
    k_bottom: the number of smallest eigenpairs.
    key: the key for Lanczos.
    start: the start vector of Lanczos; by default drawn from `key`.
  """

  prefix: str
  scale: PyTree
  k_top: int
  k_bottom: int
  key: Key
  start: PyTree | None = None


Solve = Callable[[spectra.Operator, Params, SpectrumRequest], spectra.Spectrum]


def make_solve(
  c: SpectraConfig, basis: int, sharding: spectra.VectorSharding
) -> Solve:
  """Makes the eigensolver: Lanczos, or a dense one if `exact` is set.

  Args:
    c: section `spectra` of the config.
    basis: rows of the Lanczos basis.
    sharding: how the devices share the basis.
  """

  def solve(
    operator: spectra.Operator, params: Params, request: SpectrumRequest
  ) -> spectra.Spectrum:
    operator = spectra.rescale(operator, request.scale)
    ks = {"k_top": request.k_top, "k_bottom": request.k_bottom}
    if c.exact:
      return spectra.exact_spectrum(operator, params, **ks)[0]
    return spectra.lanczos(
      operator,
      params,
      request.key,
      max_order=c.max_order,
      max_basis=basis,
      tolerance=c.tolerance,
      start=request.start,
      sharding=sharding,
      **ks,
    )

  return solve


def find_largest(
  solve: Solve, operator: spectra.Operator, params: Params, k: int, key: Key
) -> spectra.Eigenpairs:
  """The k algebraically largest eigenpairs of an operator."""
  ones = jax.tree.map(jnp.ones_like, params)
  return solve(operator, params, SpectrumRequest("", ones, k, 0, key)).top


def find_spectra(
  solve: Solve,
  tolerance: float,
  operator: spectra.Operator,
  operator_at: Callable[[Params], spectra.Operator],
  params: Params,
  key: Key,
  requests: Sequence[SpectrumRequest],
) -> dict[str, spectra.Spectrum]:
  """Solves requests, and adds the rounding of products to residual bounds.

  Args:
    solve: from make_solve.
    tolerance: the relative residual up to which a pair counts as converged.
    operator: A at `params`.
    operator_at: params -> A at those parameters. The change of A when the
      parameters change by a unit of rounding measures how exact products are.
    params: the parameters.
    key: the key for the directions of those changes.
    requests: the spectra to find.

  Returns:
    A spectrum for each request, by its prefix.
  """
  found = [solve(operator, params, request) for request in requests]
  scales = jax.tree.map(
    lambda *x: jnp.stack(x), *(request.scale for request in requests)
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

  # A loop on the device, so that the product is compiled only once.
  ends = [spectra.extremes(spectrum) for spectrum in found]
  owners = np.repeat(
    np.arange(len(ends)), [len(jax.tree.leaves(end)[0]) for end in ends]
  )
  vectors = jax.tree.map(lambda *x: jnp.concatenate(x), *ends)
  keys = jax.random.split(key, len(requests))[owners]
  added = jax.lax.map(rounding, (jnp.asarray(owners), vectors, keys))
  return {
    request.prefix: spectra.add_rounding(
      spectrum, jnp.max(added[owners == i]), tolerance
    )
    for i, (request, spectrum) in enumerate(zip(requests, found))
  }
