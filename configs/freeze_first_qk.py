"""Freeze: the QK circuits of layer 0 stay as they were drawn.

Question: can induction be learnt over heads that look where chance has them
look? What layer 0 attends to can then change by way of the embeddings alone.

Command:
  python -m induction_jax.train --config configs/freeze_first_qk.py

What to expect: an induction head in five of five seeds, but late: transition
between steps 980 and 1240. The embeddings make a previous-token head (0.5 to
0.6) of one whose matrices are frozen. A minute and a half on two cores.
"""

from configs import quick


def get_config():
  config = quick.get_config()
  config.intervention.freeze = "qk 0.*"
  return config
