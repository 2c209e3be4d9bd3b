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
)
from induction_jax.circuits.memory import (
  key_recall,
  null_position_recall,
  output_recall,
  position_recall,
)
from induction_jax.circuits.ov import copying_matrices
from induction_jax.circuits.qk import matching_matrices
from induction_jax.circuits.weights import (
  CircuitWeights,
  eigenvalue_score,
  eigenvalues,
  fold_norms,
  random_weights,
)

__all__ = [
  "AblationCost",
  "CircuitWeights",
  "Composition",
  "HeadScores",
  "ablate_head",
  "ablation_costs",
  "composition",
  "copying_matrices",
  "duplicate_mask",
  "eigenvalue_score",
  "eigenvalues",
  "fold_norms",
  "k_composed_matrices",
  "key_recall",
  "matching_matrices",
  "null_position_recall",
  "null_scores",
  "output_recall",
  "position_recall",
  "prefix_mask",
  "random_weights",
  "score_heads",
]
