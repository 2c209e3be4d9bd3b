"""Smeared keys: one layer is enough where a key carries the token before it.

Question: does one layer fail for want of composition alone? A key that is
mixed with the one before it has what a previous-token head would have written
(Olsson et al. 2022, arXiv 2209.11895, argument 2).

Command:
  python -m induction_jax.train --config configs/smeared_keys.py

What to expect: an induction head in the only layer, its transition near step
60, with no previous-token head anywhere. About a minute on two cores.
"""

from configs import quick


def get_config():
  config = quick.get_config()
  config.model.n_layers = 1
  config.model.smeared_keys = True
  return config
