"""Project onto: every update inside the ten sharpest directions.

Question: does the head form in the Hessian's top eigenspace, where most of the
gradient lies? Song et al. 2024 (arXiv 2405.16002) find that training stops.

Command:
  python -m induction_jax.train --config configs/project_onto.py

What to expect: no induction head.
"""

from configs import quick


def get_config():
  config = quick.get_config()
  config.intervention.project = "onto"
  return config
