"""Markov: in-context bigrams, after a plateau at in-context unigrams.

Question: does the loss stay at that of in-context unigrams before it falls to
that of bigrams, the optimum (Edelman et al. 2024)? Every sequence is a Markov
chain of its own on five tokens.

Command:
  python -m induction_jax.train --config configs/markov.py
"""

from configs import quick


def get_config():
  config = quick.get_config()
  config.task.name = "markov"
  config.task.vocab_size = 5
  # Heads are judged on `repeats`, whose patterns these tokens must hold.
  config.task.pattern_min = 2
  config.task.pattern_max = 4
  config.train.num_steps = 1000
  config.behaviour.batch_size = 64
  config.spectra.eigen_interval = 0
  return config
