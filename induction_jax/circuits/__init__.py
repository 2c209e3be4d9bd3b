"""Heads: attention patterns, QK and OV circuits, composition, causality.

Knows only arrays and parameters; never optax, orbax or flags.
"""

from induction_jax.circuits.ablation import FROZEN, KINDS, changed_output
from induction_jax.circuits.attention import (
  HeadScores,
  duplicate_mask,
  join_scores,
  null_scores,
  prefix_mask,
  score_heads,
)
from induction_jax.circuits.composition import (
  Composition,
  composition,
  k_composed_matrices,
  virtual_copying_matrices,
)
from induction_jax.circuits.estimates import Estimate, estimate_mean
from induction_jax.circuits.ideal import (
  induction_pattern,
  previous_token_pattern,
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
  Attribution,
  FrozenPass,
  direct_attribution,
  path_logits,
)
from induction_jax.circuits.qk import (
  matched_fraction,
  matching_matrices,
  qk_matrices,
)
from induction_jax.circuits.significance import (
  composition_p_values,
  p_values,
  random_overlaps,
)
from induction_jax.circuits.spectrum import (
  effective_rank,
  eigenvalue_score,
  eigenvalues,
  singular_values,
  track_eigenvalues,
)
from induction_jax.circuits.triangles import Triangles, triangles
from induction_jax.circuits.weights import (
  CircuitWeights,
  fold_norms,
  random_weights,
  turn_queries,
)

__all__ = [
  "FROZEN",
  "KINDS",
  "Attribution",
  "CircuitWeights",
  "Composition",
  "Estimate",
  "FrozenPass",
  "HeadScores",
  "Triangles",
  "changed_output",
  "composition",
  "composition_p_values",
  "copied_fraction",
  "copying_matrices",
  "direct_attribution",
  "duplicate_mask",
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
