"""Forbid: no head may attend to the previous token, from step 0 on.

Question: is a previous-token head needed? Attention to t - 1 is taken away in
both layers and the rest scaled up (Singh et al. 2024, arXiv 2404.07129, clamp
the same part of the circuit). Other ways stay open: heads that look two and
three tokens back could be matched with one another.

Command:
  python -m induction_jax.train --config configs/forbid_previous_token.py

What to expect: accuracy 0.21 to 0.29 at step 1000, where quick has long been
perfect; then another circuit, from step 1400 on: in three of five seeds heads
that still match prefixes (0.35 to 0.54), in two the task solved without. A
minute and a half on two cores.
"""

from configs import quick


def get_config():
  config = quick.get_config()
  config.intervention.clamp = "no_previous_token *.*"
  return config
