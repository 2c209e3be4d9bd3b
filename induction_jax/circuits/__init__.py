"""Heads: attention patterns, QK and OV circuits, composition, ablation.

Knows only arrays and parameters; never optax, orbax or flags.
"""

from induction_jax.circuits.ablation import (
  AblationCost,
  ablate_head,
  ablation_costs,
)
from induction_jax.circuits.attention import (
  HeadScores,
  duplicate_mask,
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
from induction_jax.circuits.ov import (
  copied_fraction,
  copying_matrices,
  copying_triangles,
  ov_matrices,
  ov_triangles,
)
from induction_jax.circuits.qk import (
  matched_fraction,
  matching_matrices,
  matching_triangles,
  qk_matrices,
  qk_triangles,
)
from induction_jax.circuits.significance import (
  composition_p_values,
  holm,
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
from induction_jax.circuits.weights import (
  CircuitWeights,
  fold_norms,
  random_weights,
  turn_queries,
)

__all__ = [
  "AblationCost",
  "CircuitWeights",
  "Composition",
  "HeadScores",
  "ablate_head",
  "ablation_costs",
  "composition",
  "composition_p_values",
  "copied_fraction",
  "copying_matrices",
  "copying_triangles",
  "duplicate_mask",
  "effective_rank",
  "eigenvalue_score",
  "eigenvalues",
  "fold_norms",
  "holm",
  "k_composed_matrices",
  "matched_fraction",
  "matching_matrices",
  "matching_triangles",
  "null_scores",
  "ov_matrices",
  "ov_triangles",
  "p_values",
  "prefix_mask",
  "qk_matrices",
  "qk_triangles",
  "random_overlaps",
  "random_weights",
  "score_heads",
  "singular_values",
  "track_eigenvalues",
  "turn_queries",
  "virtual_copying_matrices",
]
