"""Markov: in-context learning of Markov chains (Edelman et al. 2024).
"""

from configs import quick


def get_config():
  config = quick.get_config()
  config.task.name = "markov"
  config.task.vocab_size = 5
  config.task.pattern_min = 2
  config.task.pattern_max = 4
  config.model.n_heads = 1
  config.model.d_model = 32
  config.spectra.eigen_interval = 0
  config.behaviour.batch_size = 64
  return config
