"""The whole spectrum by stochastic Lanczos quadrature, with error bars.

A unit vector z sees the spectrum through the measure that puts (z . v_i)^2 on
the eigenvalue lambda_i; over random z its mean is the spectral density, 1 / P
on each. M steps of Lanczos from z give the measure's Gauss rule: nodes are the
eigenvalues of T, weights the squared first components of its eigenvectors,
exact on polynomials up to degree 2 M - 1 (Golub and Welsch 1969; Lin, Saad and
Yang 2016, arXiv 1308.5467; Ghorbani et al. 2019, arXiv 1901.10159).

Two errors, kept apart: a few probes stand for all vectors, and M nodes stand
for P eigenvalues. The second shrinks with M only; where eigenvalues crowd, as
they do near zero, no number of probes counts them.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from induction_jax.spectra.checks import check_dtype
from induction_jax.spectra.krylov import eigh, extend, init_krylov
from induction_jax.spectra.lanczos import ROUNDING_UNITS
from induction_jax.spectra.layout import WHOLE, Layout
from induction_jax.spectra.operators import Operator
from induction_jax.spectra.trace import Estimate, check_probes, mean_of
from induction_jax.types import Array, Key, PyTree

Axis = Callable[[Array], Array]  # eigenvalues to places along an axis


class Quadrature(NamedTuple):
  """The spectrum as N probes see it: a rule of M nodes each.

  Attributes:
    nodes: [N, M], ascending.
    weights: [N, M], summing to 1 over nodes.
    size: P.
    slack: nodes by which a share may be off: 1 for a Gauss rule, 0 where the
      nodes are the eigenvalues themselves.
  """

  nodes: Array
  weights: Array
  size: Array
  slack: Array


class Density(NamedTuple):
  """Spectral density along an axis; its integral over the axis is 1."""

  grid: Array  # [G], places along the axis
  value: Array  # [G], mean over probes
  standard_error: Array  # [G], over probes


class Count(NamedTuple):
  """How many eigenvalues, and the bar that holds the number."""

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
  batch_size: int = 1,
  layout: Layout = WHOLE,
) -> Quadrature:
  """Gauss rules of the spectral measures of random probes.

  Takes N * M products. Memory is batch_size * M * P, for the whole basis is
  kept: without it eigenvalues come back as copies that take weight from
  others. A product that is not finite makes all of its probe's rule nan.

  Args:
    operator: v -> A v, linear and symmetric, on pytrees like `like`.
    like: a pytree with the shapes and the one floating dtype of v.
    key: for the probes, vectors of random signs.
    order: M, nodes for each probe; P if that is less.
    probes: N, at least 2.
    batch_size: probes taken at once, under vmap.
    layout: of the vectors of the basis.

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

  def product(vector: Array) -> Array:
    vector = layout.unpack(vector, flat.size)
    return layout.pack(ravel_pytree(operator(unravel(vector)))[0])

  def rule(key: Key) -> tuple[Array, Array]:
    start_key, spare_key = jax.random.split(key)
    start = jax.random.rademacher(start_key, flat.shape, flat.dtype)
    spare = jax.random.normal(spare_key, flat.shape, flat.dtype)
    krylov = jax.lax.fori_loop(
      0,
      order,
      lambda _, krylov: extend(product, krylov, spare, layout),
      init_krylov(start, order, layout),
    )
    nodes, vectors = eigh(krylov.projected)
    # Not left to eigh, whose vectors may look sound.
    finite = jnp.isfinite(krylov.residual)
    return jax.tree.map(
      lambda x: jnp.where(finite, x, jnp.nan), (nodes, vectors[0] ** 2)
    )

  nodes, weights = jax.lax.map(
    lambda i: rule(jax.random.fold_in(key, i)),
    jnp.arange(probes),
    batch_size=batch_size,
  )
  return Quadrature(nodes, weights, jnp.asarray(flat.size), jnp.asarray(1))


def moment(rules: Quadrature, power: int) -> Estimate:
  """Mean of the eigenvalues' powers: tr(A^p) / P, for p up to 2 M - 1.

  The first is trace / P and the second ||A||_F^2 / P.
  """
  return mean_of(jnp.sum(rules.weights * rules.nodes**power, axis=1))


def linear(values: Array) -> Array:
  """The axis of the eigenvalues themselves."""
  return values


def symlog(threshold: float) -> Axis:
  """A logarithmic axis on both sides of zero: sign(x) log10(1 + |x| / t).

  Args:
    threshold: t, the |eigenvalue| below which the axis is about linear.
  """
  return lambda x: jnp.sign(x) * jnp.log10(1 + jnp.abs(x) / threshold)


def make_grid(
  rules: Quadrature, points: int, width: float, axis: Axis = linear
) -> Array:
  """Even grid [G] along `axis` that holds the density to five widths."""
  places = axis(rules.nodes)
  low, high = jnp.min(places) - 5 * width, jnp.max(places) + 5 * width
  return jnp.linspace(low, high, points)


def density(
  rules: Quadrature, grid: Array, width: float, axis: Axis = linear
) -> Density:
  """The density per unit of an axis, each node a Gaussian of one width.

  Integrates to 1 over an axis on which `grid` has two points to a width or
  more and covers the spectrum. The error bar is that of the probes alone.

  Args:
    rules: from quadrature.
    grid: [G], places along the axis.
    width: standard deviation of the Gaussians, in units of the axis.
    axis: linear, or symlog(threshold).
  """

  def one(nodes: Array, weights: Array) -> Array:  # [G]
    away = (grid[:, None] - axis(nodes)[None]) / width
    return jnp.sum(weights[None] * jax.scipy.stats.norm.pdf(away), 1) / width

  return Density(grid, *mean_of(jax.vmap(one)(rules.nodes, rules.weights)))


def count_below(
  rules: Quadrature,
  threshold: Array,
  *,
  sigmas: float = 3.0,
  rounding: Array | float = 0.0,
) -> Count:
  """How many eigenvalues are below a threshold, with the whole error.

  A Gauss rule knows the share of its measure below a threshold only to the
  weights of the nodes on either side: with the nodes in order and W_i their
  weights summed up to the i-th, the share at x_k is from W_{k-1} to W_k, so
  that between x_k and x_{k+1} it is from W_{k-1} to W_{k+1} (the separation
  theorem of Chebyshev, Markov and Stieltjes; Szego 1939, section 3.41). The
  bar is from the mean of one bound to the mean of the other, and `sigmas`
  standard errors over probes further on each side. A bar as wide as the count
  says that these nodes cannot tell. Of an exact spectrum only the rounding is
  in the bar.

  Args:
    rules: from quadrature.
    threshold: a scalar.
    sigmas: standard errors on either side.
    rounding: how far an eigenvalue may have been moved by the rounding of the
      products, from rounding_error; Lanczos' own is added.
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
      low.value - sigmas * low.standard_error,
      high.value + sigmas * high.standard_error,
    ]
  )
  return Count(*(rules.size * jnp.clip(bounds, 0, 1)))


def count_above(
  rules: Quadrature,
  threshold: Array,
  *,
  sigmas: float = 3.0,
  rounding: Array | float = 0.0,
) -> Count:
  """How many eigenvalues are above a threshold; see count_below."""
  mirrored = rules._replace(
    nodes=-rules.nodes[:, ::-1], weights=rules.weights[:, ::-1]
  )
  return count_below(mirrored, -threshold, sigmas=sigmas, rounding=rounding)
