"""Matrix products whose derivatives XLA multiplies fast on a CPU.

JAX puts the cotangent on the left in both derivatives of a product, and turns
what comes out for the right factor. XLA then copies the cotangent, a sum of
whatever was downstream, column by column, or sums over the first axis of both
factors in a kernel that is slow and has one thread. Here products and their
derivatives, of any order, have one of three forms, as in the textbooks; on a
CPU the third is made in two steps: its left factor is turned (activations, a
query, the cotangent of what a head mixed, never a pattern), then multiplied.

A primitive, for jax.custom_vjp has no forward mode, which Hessian and
Gauss-Newton products need.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

# Which axes of left and right are summed over, by the names that BLAS has for
# them: "t" says that a factor comes turned. The other axis is a factor's own.
SUMMED = {"nn": (-1, -2), "nt": (-1, -1), "tn": (-2, -2)}
OWN = {form: tuple(-3 - axis for axis in SUMMED[form]) for form in SUMMED}


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
  if _is_left_to_jax(x, w):
    return jnp.matmul(x, w)
  rows = _bind(x.reshape(-1, x.shape[-1]), w, "nn")
  return rows.reshape(*x.shape[:-1], w.shape[1])


def products(left: Array, right: Array, turned: bool = False) -> Array:
  """Matrix by matrix left @ right, or left @ right^T if right comes `turned`.

  In all else as `product`.

  Args:
    left: [..., M, K].
    right: [..., K, N], or [..., N, K] if turned; the same leading axes.
    turned: which of the two right is.

  Returns:
    Of shape [..., M, N].

  Raises:
    ValueError: if the shapes do not fit, or the dtypes differ.
  """
  form = "nt" if turned else "nn"
  fit = left.ndim == right.ndim >= 2 and left.shape[:-2] == right.shape[:-2]
  i, j = SUMMED[form]
  if not fit or left.shape[i] != right.shape[j] or left.dtype != right.dtype:
    shape = "[..., N, K]" if turned else "[..., K, N]"
    raise ValueError(
      f"left must be [..., M, K] and right {shape} of one dtype, got "
      f"{left.dtype}{left.shape} and {right.dtype}{right.shape}"
    )
  if _is_left_to_jax(left, right):
    return jnp.matmul(left, right.swapaxes(-1, -2) if turned else right)
  return _bind(left, right, form)


def _is_left_to_jax(*factors: Array) -> bool:
  """Whether an entry is missing, or a shard_map tracks what varies."""
  varying = (jax.typeof(x).manual_axis_type.varying for x in factors)
  return any(varying) or any(0 in x.shape for x in factors)


def _bind(left: Array, right: Array, form: str) -> Array:
  # The precision of now, as in any product, and not of when it is compiled.
  precision = jax.default_matmul_precision.value
  return product_p.bind(left, right, form=form, precision=precision)


def _multiply(
  left: Array, right: Array, *, form: str, precision: str | None
) -> Array:
  """The product in one of the forms, over the same leading axes."""
  i, j = (left.ndim + axis for axis in SUMMED[form])
  leading = range(left.ndim - 2)
  return jax.lax.dot_general(
    left, right, (((i,), (j,)), (leading, leading)), precision=precision
  )


def _multiply_on_cpu(
  left: Array, right: Array, *, form: str, precision: str | None
) -> Array:
  """The same; without barriers XLA would make "tn" one slow product again."""
  if form != "tn":
    return _multiply(left, right, form=form, precision=precision)
  left = jax.lax.optimization_barrier(left.swapaxes(-1, -2))
  out = _multiply(left, right, form="nn", precision=precision)
  return jax.lax.optimization_barrier(out)


def _result(left, right, *, form, precision):
  i, j = OWN[form]
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
  """One more leading axis; that of one factor alone joins the factor's own."""
  factors = list(factors)
  if None not in axes:
    factors = [jnp.moveaxis(x, axis, 0) for x, axis in zip(factors, axes)]
    return product_p.bind(*factors, form=form, precision=precision), 0
  which = 0 if axes[1] is None else 1
  place = factors[which].ndim - 1 + OWN[form][which]
  x = jnp.moveaxis(factors[which], axes[which], place)
  size = x.shape[place : place + 2]
  factors[which] = jax.lax.collapse(x, place, place + 2)
  out = product_p.bind(*factors, form=form, precision=precision)
  place = out.ndim - 2 + which
  return out.reshape(*out.shape[:place], *size, *out.shape[place + 1 :]), place


product_p = Primitive("product")
product_p.def_impl(jax.jit(_multiply, static_argnames=("form", "precision")))
product_p.def_abstract_eval(_result)
ad.defbilinear(product_p, _left_cotangent, _right_cotangent)
batching.primitive_batchers[product_p] = _batch
mlir.register_lowering(product_p, mlir.lower_fun(_multiply, False))
mlir.register_lowering(
  product_p, mlir.lower_fun(_multiply_on_cpu, False), platform="cpu"
)
