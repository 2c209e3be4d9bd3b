"""Clamp: a perfect previous-token head from step 0.

Question: does the induction head wait for the previous-token head? Singh et
al. 2024 (arXiv 2404.07129) clamp parts of the circuit through training.

Command:
  python -m induction_jax.train --config configs/clamp_previous_token.py

What to expect: the transition of quick 55 to 165 steps earlier (five seeds),
near step 315 with seed 0, and not gone: matching and copying have still to be
learnt. A minute and a half on two cores.
"""

from configs import quick


def get_config():
  config = quick.get_config()
  config.intervention.clamp = "previous_token 0.0"
  return config
