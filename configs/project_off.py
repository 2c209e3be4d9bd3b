"""Project off: no update inside the ten sharpest directions.

Question: does the head form outside the top eigenspace of the Hessian? Song et
al. 2024 (arXiv 2405.16002) find that training succeeds without it. The update
is AdamW's; the eigenspace belongs to the held-out batch of the Hessian and is
recomputed every ten steps, so it is up to ten steps old. `projection_share`
says which share of the updates was inside.

Command:
  python -m induction_jax.train --config configs/project_off.py

What to expect: an induction head, as in quick, with the transition near step
390; about four minutes on two cores.
"""

from configs import quick


def get_config():
  config = quick.get_config()
  config.train.num_steps = 1000
  config.intervention.project = "off"
  return config
