"""Bigram trigger: the three memories of an induction head, one by one.

Question: in which order do the three associative memories of an induction head
form? Bietti et al. 2023 (arXiv 2306.00802) observe W_O2, then W_K2, then W_K1.
Triggers are drawn for every sequence, so that any token may be one.

Command:
  python -m induction_jax.train --config configs/bigram_trigger.py

What to expect: about two minutes on two cores. The transition is near step 470,
and an induction head forms. W_O2 leaves its null value first, and W_K2 follows
within 100 steps (at half height they are level, or W_O2 leads). W_K1 rises
last, together with accuracy, and stays below 1: positions that seldom follow a
trigger need no memory. With the loss over all tokens only W_O2 rises within
2000 steps, because the global bigrams dominate the gradient.
"""

from configs import quick


def get_config():
  config = quick.get_config()
  config.task.name = "bigram_trigger"
  config.task.vocab_size = 32
  config.task.dirichlet = 0.3
  config.model.position = "learned"  # memories recall position vectors
  config.model.n_heads = 1
  # As in the paper, only tokens that follow a trigger are in the loss.
  config.train.loss_tokens = "predictable"
  config.train.num_steps = 1000
  config.spectra.eigen_interval = 0
  return config
