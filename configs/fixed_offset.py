"""Fixed offset: a control that is solved without an induction head.

Question: is a positional shortcut ever reported as induction? With one period
T/2 and learned positions, a head that attends T/2 - 1 tokens back predicts the
second half perfectly.

Command:
  python -m induction_jax.train --config configs/fixed_offset.py

What to expect: pattern accuracy above 0.95 on the run's own task by step 1500
and near 0.02 on repeats, and the verdict "no induction head".
"""

from configs import quick


def get_config():
  config = quick.get_config()
  config.task.name = "fixed_offset"
  config.model.position = "learned"
  config.optim.learning_rate = 1e-3
  return config
