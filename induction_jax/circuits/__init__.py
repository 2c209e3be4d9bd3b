"""Attention heads read as circuits: patterns, QK, OV, composition, causality.

Knows only arrays and parameters; never optax, orbax or flags.

Conventions, everywhere in this room:

  Row vectors. A residual x [D] is multiplied from the left: x @ W. A head reads
  W_QK = W_Q W_K^T and writes through W_OV = W_V W_O, both [D, D] of rank at
  most K. From tokens to scores the circuit is W_E W_QK W_E^T, from tokens to
  logits W_E W_OV W_U, both [V, V]. None of the four is ever formed: AB and BA
  have the same non-zero eigenvalues, so [K, K] matrices are enough.

  Norms are folded once, by `fold_norms`. CircuitWeights have the scale and the
  centring of the norm before each layer multiplied into the weights that read
  it; the data-dependent 1 / sigma and all biases are dropped. Every function of
  CircuitWeights assumes this.

  Arrays over heads are [L, H]. Arrays over pairs are [L, H, L, H]: the reading
  head's layer and index, then the writing head's; nan unless the writer's layer
  comes first. B batch, T query position, S key position, D residual width,
  K head width, V vocabulary.

A null value is the value that a score takes by chance, without the circuit:

  attention scores      uniform causal attention on the same batch, exact
                        (`null_scores`).
  eigenvalue scores,    Gaussian weights of the same shapes (`random_weights`):
  effective rank        sampled by the caller. Eigenvalue scores have mean 0 and
                        a standard deviation of 1.5 to 2 / K.
  copied and matched    k / V for the k highest entries: exact, since the
  fraction              columns of a random circuit are exchangeable.
  composition           1 / sqrt(D) in root mean square, exact for independent
                        rotation-invariant circuits. p-values by rotating the
                        residual stream at random (`composition_p_values`).
  recall of memories    1 / number of candidates, exact
                        (`null_position_recall`, 1 / V).

Ablations and attributions have no null value: their estimates come with a
standard error over sequences.
"""

from induction_jax.circuits.ablation import (
  FROZEN,
  KINDS,
  Estimate,
  changed_output,
  estimate_mean,
)
from induction_jax.circuits.attention import (
  HeadScores,
  induction_pattern,
  join_scores,
  null_scores,
  prefix_mask,
  previous_token_pattern,
  score_heads,
)
from induction_jax.circuits.composition import (
  composition,
  composition_p_values,
  k_composed_matrices,
  p_values,
  random_overlaps,
  virtual_copying_matrices,
)
from induction_jax.circuits.memory import (
  key_recall,
  null_position_recall,
  output_recall,
  position_recall,
)
from induction_jax.circuits.ov import (
  copied_fraction,
  copying_matrices,
  ov_matrices,
)
from induction_jax.circuits.paths import (
  FrozenPass,
  direct_attribution,
  path_logits,
)
from induction_jax.circuits.qk import (
  matched_fraction,
  matching_matrices,
  qk_matrices,
)
from induction_jax.circuits.reduction import triangles
from induction_jax.circuits.spectrum import (
  effective_rank,
  eigenvalue_score,
  eigenvalues,
  singular_values,
  track_eigenvalues,
)
from induction_jax.circuits.weights import (
  CircuitWeights,
  fold_norms,
  random_weights,
  turn_queries,
)

__all__ = [
  "FROZEN",
  "KINDS",
  "CircuitWeights",
  "Estimate",
  "FrozenPass",
  "HeadScores",
  "changed_output",
  "composition",
  "composition_p_values",
  "copied_fraction",
  "copying_matrices",
  "direct_attribution",
  "effective_rank",
  "eigenvalue_score",
  "eigenvalues",
  "estimate_mean",
  "fold_norms",
  "induction_pattern",
  "join_scores",
  "k_composed_matrices",
  "key_recall",
  "matched_fraction",
  "matching_matrices",
  "null_position_recall",
  "null_scores",
  "output_recall",
  "ov_matrices",
  "p_values",
  "path_logits",
  "position_recall",
  "prefix_mask",
  "previous_token_pattern",
  "qk_matrices",
  "random_overlaps",
  "random_weights",
  "score_heads",
  "singular_values",
  "track_eigenvalues",
  "triangles",
  "turn_queries",
  "virtual_copying_matrices",
]
