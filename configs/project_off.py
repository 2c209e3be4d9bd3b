"""Project off: no update inside the ten sharpest directions.

Question: does the head form outside of the Hessian's top eigenspace? Song et
al. 2024 (arXiv 2405.16002) train as well without it. The update is AdamW's,
the eigenspace that of the held-out curvature batch, new every ten steps; in
between it goes stale. `projection_share` says how much of the updates it was.

Command:
  python -m induction_jax.train --config configs/project_off.py

What to expect: an induction head, as in quick, its transition near step 390;
about four minutes on two cores.
"""

from configs import quick


def get_config():
  config = quick.get_config()
  config.train.num_steps = 1000
  config.intervention.project = "off"
  return config
