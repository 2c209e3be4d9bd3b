"""Where vectors lie relative to eigenspaces: alignment and overlap.

Vectors are pytrees; a set of k orthonormal ones has a leading axis k on every
leaf, as lanczos returns them.
"""

import jax
import jax.numpy as jnp

from induction_jax.types import Array, PyTree


def alignment(vector: PyTree, eigenvectors: PyTree) -> Array:
  """Share of a vector's squared norm along each eigenvector.

  (v . u_i)^2 / ||v||^2, in [0, 1]; the sum over i is the share inside their
  span. Null: 1 / P for each, from a vector of uniformly random direction.

  Args:
    vector: a pytree.
    eigenvectors: k orthonormal pytrees.

  Returns:
    [k]; nan if the vector is zero.
  """
  square_norm = sum(jnp.sum(x**2) for x in jax.tree.leaves(vector))
  lifted = jax.tree.map(lambda x: x[None], vector)
  return _inner(eigenvectors, lifted)[:, 0] ** 2 / square_norm


def overlap(a: PyTree, b: PyTree) -> Array:
  """Overlap of two k-dimensional subspaces: ||A B^T||_F^2 / k, in [0, 1].

  1 if they are the same space, 0 if orthogonal; null k / P. This is the
  measure of Gur-Ari, Roberts and Dyer 2018 (arXiv 1812.04754), eq. 4.

  Args:
    a: k orthonormal pytrees.
    b: k orthonormal pytrees.
  """
  products = _inner(a, b)
  return jnp.sum(products**2) / products.shape[0]


def _inner(a: PyTree, b: PyTree) -> Array:  # [k_a, k_b]
  terms = jax.tree.map(
    lambda x, y: jnp.dot(
      x.reshape(x.shape[0], -1),
      y.reshape(y.shape[0], -1).T,
      precision="highest",
    ),
    a,
    b,
  )
  return jnp.sum(jnp.stack(jax.tree.leaves(terms)), axis=0)
