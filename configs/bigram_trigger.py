"""Bigram trigger: the memories of an induction head, one by one.

Question: in which order do the three associative memories of an induction head
form (Bietti et al. 2023, who see W_O2, then W_K2, then W_K1)? Triggers are
drawn for every sequence, so that every token may be one.

Command:
  python -m induction_jax.train --config configs/bigram_trigger.py
"""

from configs import quick


def get_config():
  config = quick.get_config()
  config.task.name = "bigram_trigger"
  config.task.vocab_size = 32
  config.task.dirichlet = 0.3
  config.model.position = "learned"  # recall of positions needs vectors
  config.model.n_heads = 1
  # As there: what follows other tokens is not in the loss.
  config.train.loss_tokens = "predictable"
  config.train.num_steps = 1000
  config.spectra.eigen_interval = 0
  return config
