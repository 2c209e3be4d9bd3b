"""Forbid: no head may attend to the previous token, from step 0 on.

Question: is a previous-token head needed?

Command:
  python -m induction_jax.train --config configs/forbid_previous_token.py

What to expect: no induction head.
"""

from configs import quick


def get_config():
  config = quick.get_config()
  config.intervention.clamp = "no_previous_token *.*"
  return config
