"""Markov: in-context bigrams, after a plateau at in-context unigrams.

Question: does the loss stay at the level of in-context unigrams before it falls
to the level of in-context bigrams, the optimum (Edelman et al. 2024)? Every
sequence is a Markov chain of its own on five tokens.

Command:
  python -m induction_jax.train --config configs/markov.py

What to expect: within 100 steps the loss equals that of unigrams with the best
smoothing. It stays there until step 320 and then falls to within 0.02 nats of
bigrams, with an induction head (seed 0; near step 500 with seed 1). With one
head and d_model 32 the plateau lasts 950 steps with seed 0, and more than 1500
with seeds 1 and 2. One minute on two cores.
"""

from configs import quick


def get_config():
  config = quick.get_config()
  config.task.name = "markov"
  config.task.vocab_size = 5
  # Heads are judged on `repeats`, whose patterns must fit five tokens.
  config.task.pattern_min = 2
  config.task.pattern_max = 4
  config.train.num_steps = 1000
  config.behaviour.batch_size = 64
  config.spectra.eigen_interval = 0
  return config
