"""Smeared keys: one layer suffices where a key includes the token before it.

Question: does one layer fail only because it lacks composition? A key that is
mixed with the key before it carries what a previous-token head would have
written (Olsson et al. 2022, arXiv 2209.11895, argument 2).

Command:
  python -m induction_jax.train --config configs/smeared_keys.py

What to expect: an induction head in the only layer, with the transition near
step 60 and no previous-token head anywhere. About a minute on two cores.
"""

from configs import quick


def get_config():
  config = quick.get_config()
  config.model.n_layers = 1
  config.model.smeared_keys = True
  return config
