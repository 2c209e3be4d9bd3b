"""A matrix product whose derivatives XLA multiplies fast on a CPU.

JAX puts the cotangent on the left in both derivatives of x @ w, and transposes
what comes out for w. XLA then copies the cotangent, a sum of whatever was
downstream, column by column, and gives the product to a slower kernel. Here
the derivative with respect to w is x^T @ cotangent, as in the textbooks: what
is copied are activations that lie in memory, and the product is of the fast
kind. Second derivatives are made of the same products.

A primitive, for jax.custom_vjp has no forward mode, which Hessian and
Gauss-Newton products need.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir


def product(x: Array, w: Array) -> Array:
  """The product x @ w of x [..., K] and w [K, N], [..., N].

  At JAX's default matmul precision. Derivatives of every order and in either
  mode, vmap and jit are those of jnp.matmul, to rounding. Without an entry, or
  in a jax.shard_map that tracks what varies over devices, it is jnp.matmul.

  Raises:
    ValueError: if the shapes do not fit, or the dtypes differ.
  """
  if w.ndim != 2 or x.shape[-1:] != w.shape[:1] or x.dtype != w.dtype:
    raise ValueError(
      f"x must be [..., K] and w [K, N] of one dtype, got {x.dtype}{x.shape} "
      f"and {w.dtype}{w.shape}"
    )
  varying = (jax.typeof(a).manual_axis_type.varying for a in (x, w))
  if any(varying) or 0 in x.shape + w.shape:
    return jnp.matmul(x, w)
  rows = product_p.bind(
    x.reshape(-1, x.shape[-1]),
    w,
    turned=False,
    # That of now, as in any product, and not of when it is compiled.
    precision=jax.default_matmul_precision.value,
  )
  return rows.reshape(*x.shape[:-1], w.shape[1])


def _multiply(
  left: Array, right: Array, *, turned: bool, precision: str | None
) -> Array:
  """The product left @ right, or if `turned` left^T @ right."""
  contracted = (((0 if turned else 1,), (0,)), ((), ()))
  return jax.lax.dot_general(left, right, contracted, precision=precision)


def _multiply_on_cpu(
  left: Array, right: Array, *, turned: bool, precision: str | None
) -> Array:
  """The same; behind a barrier XLA copies the transpose by itself."""
  if turned:
    left = jax.lax.optimization_barrier(left.T)
  return _multiply(left, right, turned=False, precision=precision)


def _result(left, right, *, turned, precision):
  rows = left.shape[1 if turned else 0]
  return jax.core.ShapedArray((rows, right.shape[1]), left.dtype)


def _left_cotangent(cotangent, left, right, *, turned, precision):
  pair = (right, cotangent.T) if turned else (cotangent, right.T)
  return product_p.bind(*pair, turned=False, precision=precision)


def _right_cotangent(cotangent, left, right, *, turned, precision):
  turned = not turned
  return product_p.bind(left, cotangent, turned=turned, precision=precision)


def _batch(operands, axes, *, turned, precision):
  """Of one batched operand the batch joins the side that is not summed over."""
  left, right = (
    x if axis is None else jnp.moveaxis(x, axis, 0)
    for x, axis in zip(operands, axes)
  )
  multiply = functools.partial(
    product_p.bind, turned=turned, precision=precision
  )
  if axes[0] is None:  # right [B, K, N]
    batch, inner, columns = right.shape
    joined = right.swapaxes(0, 1).reshape(inner, batch * columns)
    return multiply(left, joined).reshape(-1, batch, columns), 1
  if axes[1] is not None:
    left = left.swapaxes(1, 2) if turned else left
    return jnp.matmul(left, right, precision=precision), 0
  if turned:  # left [B, K, M]
    batch, inner, rows = left.shape
    joined = left.swapaxes(0, 1).reshape(inner, batch * rows)
  else:  # left [B, M, K]
    batch, rows, inner = left.shape
    joined = left.reshape(batch * rows, inner)
  return multiply(joined, right).reshape(batch, rows, right.shape[1]), 0


product_p = Primitive("product")
product_p.def_impl(jax.jit(_multiply, static_argnames=("turned", "precision")))
product_p.def_abstract_eval(_result)
ad.defbilinear(product_p, _left_cotangent, _right_cotangent)
batching.primitive_batchers[product_p] = _batch
mlir.register_lowering(product_p, mlir.lower_fun(_multiply, False))
mlir.register_lowering(
  product_p, mlir.lower_fun(_multiply_on_cpu, False), platform="cpu"
)
