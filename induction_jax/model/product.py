"""Matrix products whose derivatives are fast on a CPU.

In both derivatives of a product, JAX makes the cotangent the left factor, and
transposes the result for the right factor. XLA then copies the cotangent column
by column, or sums over the first axis of both factors in a slow kernel with one
thread. Here products and their derivatives of every order take one of three
forms: A B, A B^T and A^T B. On a CPU, A^T B is computed in two steps: A is
transposed in memory, then multiplied. (A is then an activation, a query or a
cotangent, never an attention pattern, which would be expensive to transpose.)

The product is a primitive because jax.custom_vjp does not support forward mode,
which Hessian-vector and Gauss-Newton products need.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

# The axes of left and right that are summed over, by form. A form is named as
# in BLAS: "t" for a transposed factor, "n" for one that is not.
SUMMED = {"nn": (-1, -2), "nt": (-1, -1), "tn": (-2, -2)}
# The axis of each factor that remains in the product.
KEPT = {form: tuple(-3 - axis for axis in SUMMED[form]) for form in SUMMED}


def product(x: Array, w: Array) -> Array:
  """The product x @ w, at JAX's default matmul precision.

  Equal to jnp.matmul up to rounding, also in its derivatives of every order in
  either mode and under vmap and jit. Empty arrays, and a jax.shard_map that
  tracks which values vary over devices, use jnp.matmul itself.

  Args:
    x: [..., K].
    w: [K, N].

  Returns:
    [..., N].

  Raises:
    ValueError: if the shapes do not fit, or the dtypes differ.
  """
  if w.ndim != 2 or x.shape[-1:] != w.shape[:1] or x.dtype != w.dtype:
    raise ValueError(
      f"x must be [..., K] and w [K, N] of one dtype, got {x.dtype}{x.shape} "
      f"and {w.dtype}{w.shape}"
    )
  if _needs_matmul(x, w):
    return jnp.matmul(x, w)
  rows = _bind(x.reshape(-1, x.shape[-1]), w, "nn")
  return rows.reshape(*x.shape[:-1], w.shape[1])


def products(left: Array, right: Array, transposed: bool = False) -> Array:
  """Batched matrix products left @ right, or left @ right^T if `transposed`.

  Precision, derivatives and transformations are those of `product`.

  Args:
    left: [..., M, K].
    right: [..., K, N], or [..., N, K] if transposed; the same leading axes.
    transposed: whether to multiply by the transpose of `right`.

  Returns:
    [..., M, N].

  Raises:
    ValueError: if the shapes do not fit, or the dtypes differ.
  """
  form = "nt" if transposed else "nn"
  fit = left.ndim == right.ndim >= 2 and left.shape[:-2] == right.shape[:-2]
  i, j = SUMMED[form]
  if not fit or left.shape[i] != right.shape[j] or left.dtype != right.dtype:
    shape = "[..., N, K]" if transposed else "[..., K, N]"
    raise ValueError(
      f"left must be [..., M, K] and right {shape} of one dtype, got "
      f"{left.dtype}{left.shape} and {right.dtype}{right.shape}"
    )
  if _needs_matmul(left, right):
    return jnp.matmul(left, right.swapaxes(-1, -2) if transposed else right)
  return _bind(left, right, form)


def _needs_matmul(*factors: Array) -> bool:
  """Whether a factor is empty, or a shard_map tracks what varies."""
  varying = (jax.typeof(x).manual_axis_type.varying for x in factors)
  return any(varying) or any(0 in x.shape for x in factors)


def _bind(left: Array, right: Array, form: str) -> Array:
  # As for jnp.matmul, the precision is that of the call, not of compilation.
  precision = jax.default_matmul_precision.value
  return product_p.bind(left, right, form=form, precision=precision)


def _multiply(
  left: Array, right: Array, *, form: str, precision: str | None
) -> Array:
  """The product in one of the forms, batched over the leading axes."""
  i, j = (left.ndim + axis for axis in SUMMED[form])
  leading = range(left.ndim - 2)
  return jax.lax.dot_general(
    left, right, (((i,), (j,)), (leading, leading)), precision=precision
  )


def _multiply_on_cpu(
  left: Array, right: Array, *, form: str, precision: str | None
) -> Array:
  """The product; barriers keep XLA from fusing the transpose of "tn"."""
  if form != "tn":
    return _multiply(left, right, form=form, precision=precision)
  left = jax.lax.optimization_barrier(left.swapaxes(-1, -2))
  out = _multiply(left, right, form="nn", precision=precision)
  return jax.lax.optimization_barrier(out)


def _result(left, right, *, form, precision):
  i, j = KEPT[form]
  shape = (*left.shape[:-2], left.shape[i], right.shape[j])
  return jax.core.ShapedArray(shape, left.dtype)


def _left_cotangent(cotangent, left, right, *, form, precision):
  pair, form = {
    "nn": ((cotangent, right), "nt"),
    "nt": ((cotangent, right), "nn"),
    "tn": ((right, cotangent), "nt"),
  }[form]
  return product_p.bind(*pair, form=form, precision=precision)


def _right_cotangent(cotangent, left, right, *, form, precision):
  pair, form = {
    "nn": ((left, cotangent), "tn"),
    "nt": ((cotangent, left), "tn"),
    "tn": ((left, cotangent), "nn"),
  }[form]
  return product_p.bind(*pair, form=form, precision=precision)


def _batch(factors, axes, *, form, precision):
  """Batching rule; an axis of one factor only is merged with its kept axis."""
  factors = list(factors)
  if None not in axes:
    factors = [jnp.moveaxis(x, axis, 0) for x, axis in zip(factors, axes)]
    return product_p.bind(*factors, form=form, precision=precision), 0
  which = 0 if axes[1] is None else 1
  axis = factors[which].ndim - 1 + KEPT[form][which]
  x = jnp.moveaxis(factors[which], axes[which], axis)
  size = x.shape[axis : axis + 2]
  factors[which] = jax.lax.collapse(x, axis, axis + 2)
  out = product_p.bind(*factors, form=form, precision=precision)
  axis = out.ndim - 2 + which
  return out.reshape(*out.shape[:axis], *size, *out.shape[axis + 1 :]), axis


product_p = Primitive("product")
product_p.def_impl(jax.jit(_multiply, static_argnames=("form", "precision")))
product_p.def_abstract_eval(_result)
ad.defbilinear(product_p, _left_cotangent, _right_cotangent)
batching.primitive_batchers[product_p] = _batch
mlir.register_lowering(product_p, mlir.lower_fun(_multiply, False))
mlir.register_lowering(
  product_p, mlir.lower_fun(_multiply_on_cpu, False), platform="cpu"
)
