"""Trace and Frobenius norm from probe vectors, with standard errors.

A probe vector z has independent random signs, so E z z^T = 1: z^T A z is the
trace of A in expectation (Hutchinson 1990) and ||A z||^2 is ||A||_F^2. One
product serves both. The variance comes from the off-diagonal entries of A,
which are due mostly to a few outlying eigenvalues. If those eigenpairs are
known they are counted exactly, and the probe vectors are projected onto what
is orthogonal to them (the idea of Hutch++, Meyer et al. 2021, arXiv 2010.09649,
with eigenvectors instead of a sketch that would cost products of its own).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from induction_jax.spectra.eigenpairs import Spectrum
from induction_jax.spectra.krylov import dot, inner
from induction_jax.spectra.operators import Operator
from induction_jax.types import Array, Key, PyTree


class Estimate(NamedTuple):
  """A mean over probe vectors and its standard error."""

  value: Array
  standard_error: Array


class Sizes(NamedTuple):
  """How large an operator is, as sums over all its eigenvalues."""

  trace: Estimate  # their sum
  square_frobenius: Estimate  # the sum of their squares, ||A||_F^2
  frobenius: Estimate  # its root; the error to first order (delta method)


def estimate_sizes(
  operator: Operator,
  like: PyTree,
  key: Key,
  *,
  probes: int,
  deflate: Spectrum | None = None,
) -> Sizes:
  """Trace and Frobenius norm, at one product for each probe vector.

  The trace is unbiased however inaccurate the deflated pairs are; ||A||_F^2 is
  too low by at most the sum of their squared residuals.

  Args:
    operator: v -> A v, linear and symmetric, on pytrees like `like`.
    like: a pytree with the shapes and the one floating dtype of v.
    key: for the probe vectors.
    probes: N, the number of probe vectors, at least 2.
    deflate: eigenpairs of the operator, from lanczos, to count exactly.

  Raises:
    ValueError: if probes is below 2, or `deflate` has more pairs than P.
  """
  check_probes(probes)
  flat, unravel = ravel_pytree(like)
  values, vectors = _known_pairs(deflate, flat)

  def sample(key: Key) -> tuple[Array, Array]:
    z = jax.random.rademacher(key, flat.shape, flat.dtype)
    z = z - dot(inner(vectors, z), vectors)
    product = ravel_pytree(operator(unravel(z)))[0]
    return jnp.sum(z * product), jnp.sum(product**2)

  traces, squares = map_probes(sample, key, probes)
  trace, square = mean_of(traces), mean_of(squares)
  trace = trace._replace(value=trace.value + jnp.sum(values))
  square = square._replace(value=square.value + jnp.sum(values**2))
  norm = jnp.sqrt(square.value)
  # The norm of a zero operator is known exactly.
  slope = jnp.where(norm > 0, 0.5 / jnp.where(norm > 0, norm, 1), 0)
  return Sizes(trace, square, Estimate(norm, slope * square.standard_error))


def map_probes(
  sample: Callable[[Key], PyTree], key: Key, probes: int
) -> PyTree:
  """`sample` of one key for each probe vector, stacked along a first axis."""
  # A batch of one is still a vmap. Without it the results would differ in the
  # last bits from those recorded so far.
  return jax.lax.map(
    lambda i: sample(jax.random.fold_in(key, i)),
    jnp.arange(probes),
    batch_size=1,
  )


def mean_of(samples: Array) -> Estimate:
  """Mean over the leading axis of N independent samples."""
  error = jnp.std(samples, axis=0, ddof=1) / samples.shape[0] ** 0.5
  return Estimate(jnp.mean(samples, axis=0), error)


def check_probes(probes: int) -> None:
  """Raises ValueError for fewer probe vectors than a standard error needs."""
  if probes < 2:
    raise ValueError(f"probes must be at least 2, got probes={probes}")


def _known_pairs(
  spectrum: Spectrum | None, flat: Array
) -> tuple[Array, Array]:  # [k], [k, P]
  if spectrum is None:
    return jnp.zeros(0, flat.dtype), jnp.zeros((0, flat.size), flat.dtype)
  ends = spectrum.top, spectrum.bottom
  values = jnp.concatenate([end.values for end in ends])
  if len(values) > flat.size:
    raise ValueError(
      f"deflate must have at most P={flat.size} pairs, got {len(values)}"
    )
  vectors = [jax.vmap(lambda v: ravel_pytree(v)[0])(e.vectors) for e in ends]
  return values, jnp.concatenate(vectors)
