"""Forbid: no head may attend to the previous token, from step 0 on.

Question: is a previous-token head necessary? Attention to t - 1 is removed in
both layers and the rest scaled up to sum to 1 (Singh et al. 2024, arXiv
2404.07129, clamp the same part of the circuit). Other solutions remain
possible: heads that attend two and three tokens back could be matched with one
another.

Command:
  python -m induction_jax.train --config configs/forbid_previous_token.py

What to expect: accuracy 0.21 to 0.29 at step 1000, where quick has long reached
1.0; then another circuit, from step 1400 on. In three of five seeds heads still
match prefixes (0.35 to 0.54); in two the task is solved without such heads. A
minute and a half on two cores.
"""

from configs import quick


def get_config():
  config = quick.get_config()
  config.intervention.clamp = "no_previous_token *"
  return config
