"""One layer: a control that cannot form an induction head.

Question: does the result of quick depend on having two layers? One layer of
plain attention cannot attend to the token after an earlier occurrence (Olsson
et al. 2022).

Command:
  python -m induction_jax.train --config configs/one_layer.py

What to expect: no transition; pattern accuracy stays below 0.4.
"""

from configs import quick


def get_config():
  config = quick.get_config()
  config.model.n_layers = 1
  return config
