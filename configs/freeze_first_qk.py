"""Freeze: the QK circuits of layer 0 keep their initial values.

Question: can induction be learnt when the attention of layer 0 cannot be
trained directly? It can then change through the embeddings alone.

Command:
  python -m induction_jax.train --config configs/freeze_first_qk.py

What to expect: an induction head in five of five seeds, but late, with the
transition between steps 980 and 1240. The embeddings turn a head whose matrices
are frozen into a previous-token head (score 0.5 to 0.6). A minute and a half on
two cores.
"""

from configs import quick


def get_config():
  config = quick.get_config()
  config.intervention.freeze = "qk L0H*"
  return config
