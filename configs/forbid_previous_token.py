"""Forbid: no head may attend to the previous token, from step 0 on.

Question: is a previous-token head needed? Attention to t - 1 is taken away in
both layers and the rest scaled up (Singh et al. 2024, arXiv 2404.07129, clamp
the same part of the circuit). Other ways stay open: heads that look two and
three tokens back could be matched with one another.

Command:
  python -m induction_jax.train --config configs/forbid_previous_token.py

What to expect: no induction head; accuracy 0.24 at step 1000. Two and a half
minutes on two cores.
"""

from configs import quick


def get_config():
  config = quick.get_config()
  config.intervention.clamp = "no_previous_token *.*"
  return config
