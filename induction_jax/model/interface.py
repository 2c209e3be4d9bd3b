"""What users of a model see: parameters by name, functions, activations.

Every function of a model is pure.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from induction_jax.config import ModelConfig
from induction_jax.types import Array, Key, Params

ROTARY_BASE = 10_000.0

# Of queries, keys and values [L, H, K]; of the output of all heads of a layer
# [L, D]; of the MLP [L, F] and [L, D]; of the norms [L, D] and [D].
BIASES = (
  *("b_q", "b_k", "b_v", "b_o", "b_in", "b_out"),
  *("norm_bias", "mlp_norm_bias", "final_norm_bias"),
)
# Parameters without a layer axis.
UNSTACKED = ("w_e", "w_u", "w_pos", "final_norm_scale", "final_norm_bias")

Initialiser = Callable[[Key, tuple[int, ...]], Array]


class Convention(NamedTuple):
  """Details in which published models differ; the defaults are this package's.

  Attributes:
    epsilon: added to the mean square in a norm, before the square root.
    exact_gelu: whether gelu is x Phi(x), instead of its approximation by tanh
      (both in Hendrycks and Gimpel 2016, arXiv 1606.08415).
    parallel: whether the MLP reads the input of the layer, as the heads do,
      instead of the residual after the heads.
    rotary_width: number of components of each query and key that are rotated,
      from the first on; None: all.
    rotary_base: the base of the rotations' frequencies.
  """

  epsilon: float = 1e-6
  exact_gelu: bool = False
  parallel: bool = False
  rotary_width: int | None = None
  rotary_base: float = ROTARY_BASE


OWN_CONVENTION = Convention()


class Activations(NamedTuple):
  """Activations of all heads. XLA does not compute those that are not used.

  Attributes:
    pattern: attention patterns, [L, B, H, T, S]; rows sum to 1.
    value: values, [L, B, H, S, K], before any edit.
    output: what each head adds to the residual, [L, B, H, T, D].
    residual: before each layer and before the final norm, [L + 1, B, T, D].
  """

  pattern: Array
  value: Array
  output: Array
  residual: Array


class Edits(NamedTuple):
  """Changes to activations of heads: pure functions, applied in every layer.

  Everything downstream is computed from the changed activation. None leaves an
  activation unchanged.

  Attributes:
    pattern: (layer, pattern [B, H, T, S], tokens [B, T]) -> pattern.
    output: (layer, output [B, H, T, D]) -> output.
  """

  pattern: Callable[[int, Array, Array], Array] | None = None
  output: Callable[[int, Array], Array] | None = None


NO_EDITS = Edits()


class Resumption(NamedTuple):
  """Start of a forward pass inside a layer, after its heads.

  Attributes:
    layer: index of the layer.
    residual: before the layer, [B, T, D].
    added: sum of the outputs of its heads, without bias, [B, T, D].
  """

  layer: int
  residual: Array
  added: Array


class Model(NamedTuple):
  """A network as pure functions, with the clamps of its heads.

  Attributes:
    init: key -> params.
    apply: (params, tokens [B, T], edits, resumption) -> (logits [B, T, V],
      Activations). `edits` and `resumption` are optional. After a resumption,
      the activations are those of the later layers, and the residuals start
      before the first of these.
    predict: (params, tokens [B, T]) -> logits. Equal to those of `apply` up to
      rounding, but faster, because no full attention pattern is computed. This
      function is trained and differentiated.
    clamps: edits that `apply` and `predict` make in every pass, before the
      edits passed to `apply`.
    mixes_sequences: whether the output for one sequence depends on the others
      in its batch. If so, a batch cannot be split into micro-batches.
  """

  init: Callable[[Key], Params]
  apply: Callable[..., tuple[Array, Activations]]
  predict: Callable[[Params, Array], Array]
  clamps: Edits = NO_EDITS
  mixes_sequences: bool = False


def parameter_shapes(
  config: ModelConfig, vocab_size: int, seq_length: int
) -> dict[str, tuple[int, ...]]:
  """Shapes of the parameters that are trained, by name."""
  table = parameter_table(config, vocab_size, seq_length)
  return {name: shape for name, (_, shape) in table.items()}


def parameter_table(
  config: ModelConfig, vocab_size: int, seq_length: int
) -> dict[str, tuple[Initialiser, tuple[int, ...]]]:
  """Initialiser and shape of each parameter that is trained, by name."""
  c = config
  qkv = (c.n_layers, c.n_heads, c.d_model, c.d_head)
  ones, zeros = jax.nn.initializers.ones, jax.nn.initializers.zeros
  normal = _normal(c.d_model**-0.5)
  table = {
    "w_e": (normal, (vocab_size, c.d_model)),
    "w_q": (normal, qkv),
    "w_k": (normal, qkv),
    "w_v": (normal, qkv),
    "w_o": (normal, (c.n_layers, c.n_heads, c.d_head, c.d_model)),
    "w_u": (normal, (c.d_model, vocab_size)),
  }
  if c.position in ("shortformer", "learned"):
    table["w_pos"] = (normal, (seq_length, c.d_model))
  if c.smeared_keys:
    table["smear"] = (zeros, (c.n_layers, c.n_heads))
  if c.d_mlp:
    narrow = _normal(c.d_mlp**-0.5)
    table["w_in"] = (normal, (c.n_layers, c.d_model, c.d_mlp))
    table["w_out"] = (narrow, (c.n_layers, c.d_mlp, c.d_model))
  if c.norm != "none":
    table["norm_scale"] = (ones, (c.n_layers, c.d_model))
    table["final_norm_scale"] = (ones, (c.d_model,))
    if c.d_mlp:
      table["mlp_norm_scale"] = (ones, (c.n_layers, c.d_model))
  return table


def of_layer(weights: Params, name: str, layer: int | None) -> Any:
  """The slice of a parameter for one layer.

  Returns:
    The parameter itself if `layer` is None; None if there is no such parameter.
  """
  if layer is None or name not in weights:
    return weights.get(name)
  return weights[name][layer]


def add_bias(x: Array, bias: Array | None) -> Array:  # [B, T, ...], [...]
  """Adds a bias, unless it is None."""
  return x if bias is None else x + bias[None, None]


def _normal(sd: float) -> Initialiser:
  """Gaussian initialiser; drawn flat, which XLA compiles ten times faster."""

  def init(key: Key, shape: tuple[int, ...]) -> Array:
    return sd * jax.random.normal(key, (math.prod(shape),)).reshape(shape)

  return init
