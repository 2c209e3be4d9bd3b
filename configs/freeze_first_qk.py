"""Freeze: the QK circuits of layer 0 stay as they were drawn.

Question: can induction be learnt over heads that look where chance has them
look? Frozen so, layer 0 cannot learn to attend to the previous token.

Command:
  python -m induction_jax.train --config configs/freeze_first_qk.py

What to expect: no induction head if nothing but learnt attention to the
previous token will do (as for forbid_previous_token), a late and poor one if
chance is enough. Two and a half minutes on two cores.
"""

from configs import quick


def get_config():
  config = quick.get_config()
  config.intervention.freeze = "qk 0.*"
  return config
