"""Checks of a loss, its parameters and an operator, with messages that help."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from induction_jax.types import Array, Key, PyTree

# Pairs of random vectors that check_operator draws.
PAIRS = 4
NO_RULE = (
  "the loss evaluates but a curvature product of it does not: a product takes "
  "jvp (of grad, for the Hessian), and something in the network has no rule "
  "for it, such as a custom_vjp function or a fused or Pallas attention "
  "kernel. Measure with plain operations in its place (attention by einsum and "
  "softmax), or give it a jax.custom_jvp rule"
)


def check_dtype(like: PyTree) -> None:
  """Raises TypeError unless all leaves are float32, or all float64."""
  dtypes = {jnp.result_type(x) for x in jax.tree.leaves(like)}
  if dtypes not in ({jnp.dtype("float32")}, {jnp.dtype("float64")}):
    names = ", ".join(sorted(map(str, dtypes))) or "no leaf"
    raise TypeError(
      "parameters and vectors must be all float32 or all float64, got "
      f"{names}: convert them, and close over what is not a parameter"
    )


def check_scalar(name: str, function: Callable, *args: PyTree) -> None:
  """Traces `function(*args)` and requires it to return one floating scalar.

  Raises:
    TypeError: with the shapes and dtypes that it returned.
  """
  leaves = jax.tree.leaves(jax.eval_shape(function, *args))
  shapes = [(leaf.shape, leaf.dtype.name) for leaf in leaves]
  if len(leaves) != 1 or leaves[0].shape:
    raise TypeError(
      f"{name} must return one scalar, a mean over what counts, got arrays of "
      f"(shape, dtype) {shapes}"
    )
  if not jnp.issubdtype(leaves[0].dtype, jnp.floating):
    raise TypeError(f"{name} must return a real number, got {shapes[0][1]}")


def check_product(operator: Callable[[PyTree], PyTree], like: PyTree) -> None:
  """Traces one product, so that a missing derivative rule is reported early.

  Raises:
    TypeError: if something in the network has no rule for a derivative that a
      product takes; the original error is chained.
  """
  try:
    jaxpr = jax.make_jaxpr(lambda a, v: a(v))(operator, like)
  except (NotImplementedError, TypeError, ValueError) as error:
    raise TypeError(f"{NO_RULE}. The cause: {error}") from error
  # JAX leaves this primitive in a trace where it took the jvp of a custom_vjp
  # function. Its own error comes only at compilation, and names no remedy.
  if "custom_lin" in _primitives(jaxpr.jaxpr):
    raise TypeError(f"{NO_RULE}. The cause: jvp of a custom_vjp function")


def check_operator(
  operator: Callable[[PyTree], PyTree],
  like: PyTree,
  key: Key,
  *,
  tolerance: float | None = None,
) -> None:
  """Raises unless products are finite and the operator is symmetric.

  For Gaussian u and v, u . Av - v . Au has standard deviation ||A - A^T||_F,
  and E||Av||^2 = ||A||_F^2. The ratio of the two, estimated from a few pairs,
  is the relative asymmetry that must not exceed `tolerance`. An error in a part
  of A too small to show in its Frobenius norm goes unnoticed. Costs eight
  products. It inspects values, so it cannot be used under jit.

  Args:
    operator: v -> Av on pytrees like `like`.
    like: a pytree with the shapes and the one floating dtype of v.
    key: for the random vectors.
    tolerance: the largest relative asymmetry attributed to rounding; by
      default the square root of the dtype's rounding unit.

  Raises:
    FloatingPointError: if a product is not finite.
    ValueError: if the operator is not symmetric.
  """
  flat, unravel = ravel_pytree(like)
  pairs = jax.random.normal(key, (PAIRS, 2, flat.size), flat.dtype)

  def compare(pair: Array) -> tuple[Array, Array]:
    u, v = pair
    image_u, image_v = (ravel_pytree(operator(unravel(x)))[0] for x in (u, v))
    gap = _dot(u, image_v) - _dot(v, image_u)
    return gap**2, (_dot(image_u, image_u) + _dot(image_v, image_v)) / 2

  gaps, squares = jax.lax.map(compare, pairs)
  gap, size = (float(jnp.sqrt(jnp.mean(x))) for x in (gaps, squares))
  if not size < float("inf"):  # nan as well
    raise FloatingPointError(
      f"a product with a random vector is not finite, its norm is {size}: "
      "look for non-finite parameters, or an overflow in the loss"
    )
  allowed = jnp.finfo(flat.dtype).eps ** 0.5 if tolerance is None else tolerance
  if gap > allowed * size:
    raise ValueError(
      "the operator must be symmetric: u . Av and v . Au differ by "
      f"{gap / size:.1e} of the Frobenius norm, allowed {allowed:.1e}; "
      "for a preconditioned operator use the symmetric form, rescale"
    )


def _dot(a: Array, b: Array) -> Array:
  return jnp.dot(a, b, precision="highest")


def _primitives(jaxpr: PyTree) -> set[str]:
  """Names of all primitives in a jaxpr and in the jaxprs nested in it."""
  names = set()
  for equation in jaxpr.eqns:
    names.add(equation.primitive.name)
    for value in jax.tree.leaves(equation.params):
      inner = getattr(value, "jaxpr", value)  # of a ClosedJaxpr
      if hasattr(inner, "eqns"):
        names |= _primitives(inner)
  return names
