"""Project off: no update inside the ten sharpest directions.

Question: does the head form in the bulk of the Hessian's spectrum? Song et al.
2024 (arXiv 2405.16002) train as well without the top eigenspace.

Command:
  python -m induction_jax.train --config configs/project_off.py

What to expect: an induction head.
"""

from configs import quick


def get_config():
  config = quick.get_config()
  config.intervention.project = "off"
  return config
