"""Fixed offset: the control that is solved without an induction head.

Question: does anything here mistake a positional shortcut for induction? With
one period T/2 and learned positions a head that attends T/2 - 1 back predicts
the second half perfectly.

Command:
  python -m induction_jax.train --config configs/fixed_offset.py

What to expect: pattern accuracy above 0.95 on the run's own task by step 1500,
near 0.02 on repeats, and the verdict "no induction head".
"""

from configs import quick


def get_config():
  config = quick.get_config()
  config.task.name = "fixed_offset"
  config.model.position = "learned"
  config.optim.learning_rate = 1e-3
  return config
