"""Project onto: every update inside the ten sharpest directions.

Question: does the head form inside the top eigenspace of the Hessian, where
much of the gradient lies? Song et al. 2024 (arXiv 2405.16002) find that
training stops. The projected update is not scaled up again; a tenfold learning
rate shows whether its steps are only too small or point the wrong way.

Command:
  python -m induction_jax.train --config configs/project_onto.py

What to expect: hardly anything is learnt and no induction head forms; the loss
on predictable tokens falls from 4.50 to 4.35 nats in 150 steps. At a learning
rate of 3e-2 it reaches 3.93 nats, a uniform guess, by step 200 and stays there.
About four minutes on two cores.
"""

from configs import quick


def get_config():
  config = quick.get_config()
  config.train.num_steps = 1000
  config.intervention.project = "onto"
  return config
