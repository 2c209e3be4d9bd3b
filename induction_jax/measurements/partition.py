"""Partition of the parameters into circuits, the blocks of the Hessian."""

import jax
import numpy as np

from induction_jax import spectra
from induction_jax.types import Params

WEIGHTS = {"qk": ("w_q", "w_k", "b_q", "b_k"), "ov": ("w_v", "w_o", "b_v")}
# Blocks that span all layers. A model may lack the parameters of some.
OTHERS = {
  "embedding": ("w_e", "w_pos"),
  "mlp": ("w_in", "w_out", "b_in", "b_out"),
  "norms": (
    *("norm_scale", "mlp_norm_scale", "final_norm_scale"),
    *("norm_bias", "mlp_norm_bias", "final_norm_bias"),
  ),
  "smear": ("smear",),
  "unembedding": ("w_u",),
  "attention_bias": ("b_o",),
}


def partition_by_circuit(shapes: Params) -> spectra.Partition:
  """Partitions the parameters into QK and OV of each head, and other blocks.

  The QK block of head (l, h) is w_q[l, h] and w_k[l, h], and its OV block is
  w_v[l, h] and w_o[l, h], each with its biases if there are any.

  Args:
    shapes: the parameters, or their shapes.

  Returns:
    A partition into blocks named `qk L0H0`, ..., `ov L1H3`, then OTHERS.
  """
  n_layers, n_heads = shapes["w_q"].shape[:2]
  heads = [f"L{i}H{j}" for i in range(n_layers) for j in range(n_heads)]
  names = [f"{circuit} {head}" for circuit in WEIGHTS for head in heads]
  ids: dict[str, np.ndarray] = {}
  for number, weights in enumerate(WEIGHTS.values()):
    of_head = np.arange(len(heads)).reshape(n_layers, n_heads)
    for name in shapes.keys() & set(weights):
      inside = tuple(range(2, len(shapes[name].shape)))
      ids[name] = np.expand_dims(of_head + number * len(heads), inside)
  for block, others in OTHERS.items():
    present = [name for name in others if name in shapes]
    if present:
      ids |= dict.fromkeys(present, np.array(len(names)))
      names.append(block)
  like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), shapes)
  return spectra.make_partition(names, ids, like)
