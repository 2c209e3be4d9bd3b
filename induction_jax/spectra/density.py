"""The spectral density by stochastic Lanczos quadrature, with error bars.

A unit vector z sees the spectrum through the measure that puts weight
(z . v_i)^2 on the eigenvalue lambda_i. Its mean over random z is the spectral
density, which puts 1 / P on each eigenvalue. M steps of Lanczos from z give the
Gauss rule of the measure: its nodes are the eigenvalues of T, its weights the
squared first components of T's eigenvectors, and it is exact on polynomials up
to degree 2 M - 1 (Golub and Welsch 1969; Lin, Saad and Yang 2016, arXiv
1308.5467; Ghorbani et al. 2019, arXiv 1901.10159).

There are two errors, reported apart: N probe vectors stand for all vectors, and
M nodes stand for P eigenvalues. The second decreases only with M. Where
eigenvalues crowd, as they do near zero, no number of probe vectors counts them.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from induction_jax.spectra.checks import check_dtype
from induction_jax.spectra.eigenpairs import ROUNDING_UNITS
from induction_jax.spectra.krylov import (
  UNSHARDED,
  VectorSharding,
  eigh,
  extend,
  init_krylov,
  make_product,
)
from induction_jax.spectra.operators import Operator
from induction_jax.spectra.trace import check_probes, map_probes, mean_of
from induction_jax.types import Array, Key, PyTree

# Standard errors in the bar of a count, on either side.
SIGMAS = 3.0

Axis = Callable[[Array], Array]  # eigenvalues to coordinates along an axis


class Quadrature(NamedTuple):
  """Gauss rules of the spectrum, one with M nodes for each of N probe vectors.

  Attributes:
    nodes: [N, M], ascending.
    weights: [N, M], summing to 1 over nodes.
    size: P.
    slack: number of nodes by which a share of the spectrum may be off: 1 for
      a Gauss rule, 0 if the nodes are the eigenvalues themselves.
  """

  nodes: Array
  weights: Array
  size: Array
  slack: Array


class Density(NamedTuple):
  """Spectral density along an axis; its integral over the axis is 1."""

  grid: Array  # [G], coordinates along the axis
  value: Array  # [G], mean over probe vectors
  standard_error: Array  # [G], over probe vectors


class Count(NamedTuple):
  """A number of eigenvalues, and an error bar from low to high."""

  value: Array
  low: Array
  high: Array


def quadrature(
  operator: Operator,
  like: PyTree,
  key: Key,
  *,
  order: int,
  probes: int,
  sharding: VectorSharding = UNSHARDED,
) -> Quadrature:
  """Gauss rules of the spectral measures of random probe vectors.

  Costs N * M products. Memory is M * P numbers: the whole basis is kept, since
  without it eigenvalues come back as copies that take weight from others. A
  product that is not finite makes the rule of its probe vector nan.

  Args:
    operator: v -> A v, linear and symmetric, on pytrees like `like`.
    like: a pytree with the shapes and the one floating dtype of v.
    key: for the probe vectors, which have random signs.
    order: M, nodes for each probe vector; at most P are used.
    probes: N, the number of probe vectors, at least 2.
    sharding: of the vectors of the basis.

  Raises:
    TypeError: if `like` has more than one dtype, or none that is floating.
    ValueError: if probes is below 2 or order below 1.
  """
  check_dtype(like)
  check_probes(probes)
  if order < 1:
    raise ValueError(f"order must be at least 1, got order={order}")
  flat, unravel = ravel_pytree(like)
  order = min(order, flat.size)
  product = make_product(operator, unravel, flat.size, sharding)

  def rule(key: Key) -> tuple[Array, Array]:
    start_key, spare_key = jax.random.split(key)
    start = jax.random.rademacher(start_key, flat.shape, flat.dtype)
    spare = jax.random.normal(spare_key, flat.shape, flat.dtype)
    krylov = jax.lax.fori_loop(
      0,
      order,
      lambda _, krylov: extend(product, krylov, spare, sharding),
      init_krylov(start, order, sharding),
    )
    nodes, vectors = eigh(krylov.projected)
    # Set here, since eigh may return sound vectors for a matrix with nan.
    finite = jnp.isfinite(krylov.residual)
    return jax.tree.map(
      lambda x: jnp.where(finite, x, jnp.nan), (nodes, vectors[0] ** 2)
    )

  nodes, weights = map_probes(rule, key, probes)
  return Quadrature(nodes, weights, jnp.asarray(flat.size), jnp.asarray(1))


def linear(values: Array) -> Array:
  """The axis of the eigenvalues themselves."""
  return values


def symlog(threshold: float) -> Axis:
  """A logarithmic axis on both sides of zero: sign(x) log10(1 + |x| / t).

  Args:
    threshold: t, the |eigenvalue| below which the axis is about linear.
  """
  return lambda x: jnp.sign(x) * jnp.log10(1 + jnp.abs(x) / threshold)


def density(
  rules: Quadrature, grid: Array, width: float, axis: Axis = linear
) -> Density:
  """The density per unit of an axis, each node a Gaussian of one width.

  Integrates to 1 over `grid` if that covers the spectrum, five widths further
  on each side, with at least two points to a width. The standard error
  contains the choice of probe vectors alone.

  Args:
    rules: from quadrature.
    grid: [G], coordinates along the axis.
    width: standard deviation of the Gaussians, in units of the axis.
    axis: linear, or symlog(threshold).
  """

  def one(nodes: Array, weights: Array) -> Array:  # [G]
    away = (grid[:, None] - axis(nodes)[None]) / width
    return jnp.sum(weights[None] * jax.scipy.stats.norm.pdf(away), 1) / width

  return Density(grid, *mean_of(jax.vmap(one)(rules.nodes, rules.weights)))


def count_below(
  rules: Quadrature, threshold: Array, *, rounding: Array | float = 0.0
) -> Count:
  """The number of eigenvalues below a threshold, with its full error.

  A Gauss rule determines the share of its measure below a threshold only up
  to the weights of the adjacent nodes. With nodes x_k in ascending order and
  W_k the sum of the first k weights, the share below x_k is from W_{k-1} to
  W_k, so the share below a threshold between x_k and x_{k+1} is from W_{k-1}
  to W_{k+1} (separation theorem of Chebyshev, Markov and Stieltjes; Szego 1939,
  section 3.41). The bar extends from the mean of the lower bounds, less SIGMAS
  standard errors over probe vectors, to the mean of the upper bounds, plus as
  many. A bar as wide as the count says that these nodes cannot resolve it. For
  an exact spectrum the bar contains only rounding.

  Args:
    rules: from quadrature.
    threshold: a scalar.
    rounding: how far the rounding of products may have moved an eigenvalue,
      from rounding_error; the rounding of Lanczos is added here.
  """
  units = ROUNDING_UNITS * jnp.finfo(rules.nodes.dtype).eps
  moved = rounding + units * jnp.max(jnp.abs(rules.nodes))

  def share(below: Array, more: Array | int) -> Array:  # [N]
    nodes_below = jnp.sum(rules.nodes < below, axis=1, keepdims=True)
    counted = jnp.arange(rules.nodes.shape[1])[None] < nodes_below + more
    share = jnp.sum(jnp.where(counted, rules.weights, 0), axis=1)
    known = jnp.all(jnp.isfinite(rules.weights), axis=1)
    return jnp.where(known, share, jnp.nan)

  low = mean_of(share(threshold - moved, -rules.slack))
  high = mean_of(share(threshold + moved, rules.slack))
  bounds = jnp.stack(
    [
      jnp.mean(share(threshold, 0)),
      low.value - SIGMAS * low.standard_error,
      high.value + SIGMAS * high.standard_error,
    ]
  )
  return Count(*(rules.size * jnp.clip(bounds, 0, 1)))


def count_above(
  rules: Quadrature, threshold: Array, *, rounding: Array | float = 0.0
) -> Count:
  """The number of eigenvalues above a threshold: count_below, mirrored."""
  mirrored = rules._replace(
    nodes=-rules.nodes[:, ::-1], weights=rules.weights[:, ::-1]
  )
  return count_below(mirrored, -threshold, rounding=rounding)
