"""TF32 on any device: matrix products with rounded factors.

A GPU's default float32 product keeps ten bits of each factor's fraction and
adds up in float32 (NVIDIA, "TensorFloat-32 in the A100 GPU", 2020). So rounding
the factors and multiplying in full shows what it does to a result, whatever the
device; only the order of the sums is another.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Literal
from jax.extend.core.primitives import dot_general_p

from induction_jax.model.product import product_p

EXPONENT_BITS, FRACTION_BITS = 8, 10


def with_tf32(function: Callable[..., Any]) -> Callable[..., Any]:
  """The same function, the float32 factors of all its products rounded."""

  def rounded(*arguments: Any) -> Any:
    closed, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
    results = _evaluate(closed, jax.tree.leaves(arguments))
    return jax.tree.unflatten(jax.tree.structure(shape), results)

  return rounded


def _evaluate(closed: ClosedJaxpr, arguments: Sequence[Any]) -> list[Any]:
  jaxpr = closed.jaxpr
  known = dict(zip(jaxpr.constvars, closed.consts))
  known |= dict(zip(jaxpr.invars, arguments))

  def read(x: Any) -> Any:
    return x.val if isinstance(x, Literal) else known[x]

  for equation in jaxpr.eqns:
    values = [read(x) for x in equation.invars]
    if equation.primitive in (dot_general_p, product_p):
      values = [_round(x) for x in values]
    own = {name: _inside(x) for name, x in equation.params.items()}
    params = equation.primitive.get_bind_params(own)
    results = equation.primitive.bind(*values, **params)
    many = equation.primitive.multiple_results
    known |= zip(equation.outvars, results if many else [results])
  return [read(x) for x in jaxpr.outvars]


def _inside(param: Any) -> Any:
  """A program within the program: a scan's body, a called function."""
  if isinstance(param, tuple) and param and isinstance(param[0], ClosedJaxpr):
    return tuple(map(_inside, param))
  if not isinstance(param, ClosedJaxpr):
    return param
  return jax.make_jaxpr(lambda *x: _evaluate(param, x))(*param.in_avals)


def _round(x: jax.Array) -> jax.Array:
  if x.dtype != jnp.float32:
    return x
  return jax.lax.reduce_precision(x, EXPONENT_BITS, FRACTION_BITS)
