"""Heads: attention patterns, QK and OV circuits, composition, causality.

Knows only arrays and parameters; never optax, orbax or flags.
"""

from induction_jax.circuits.ablation import (
  Intact,
  Intervention,
  edit_output,
  edit_pattern,
  mean_outputs,
  pairs_of_heads,
  single_heads,
  sweep,
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
from induction_jax.circuits.estimates import Estimate, estimate_mean
from induction_jax.circuits.ideal import (
  induction_pattern,
  previous_token_pattern,
)
from induction_jax.circuits.ov import copying_matrices
from induction_jax.circuits.paths import (
  Attribution,
  FrozenPass,
  direct_attribution,
  path_logits,
)
from induction_jax.circuits.qk import matching_matrices
from induction_jax.circuits.weights import (
  CircuitWeights,
  eigenvalue_score,
  eigenvalues,
  fold_norms,
  random_weights,
)

__all__ = [
  "Attribution",
  "CircuitWeights",
  "Composition",
  "Estimate",
  "FrozenPass",
  "HeadScores",
  "Intact",
  "Intervention",
  "composition",
  "copying_matrices",
  "direct_attribution",
  "duplicate_mask",
  "edit_output",
  "edit_pattern",
  "eigenvalue_score",
  "eigenvalues",
  "estimate_mean",
  "fold_norms",
  "induction_pattern",
  "k_composed_matrices",
  "matching_matrices",
  "mean_outputs",
  "null_scores",
  "pairs_of_heads",
  "path_logits",
  "prefix_mask",
  "previous_token_pattern",
  "random_weights",
  "score_heads",
  "single_heads",
  "sweep",
]
