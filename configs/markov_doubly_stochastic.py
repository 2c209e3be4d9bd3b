"""Doubly stochastic: in-context Markov chains with uninformative unigrams.

Question: what becomes of the plateau of markov where in-context unigrams carry
no information (Edelman et al. 2024)? In the long run all tokens are equally
frequent.

Command:
  python -m induction_jax.train --config configs/markov_doubly_stochastic.py

What to expect: the plateau is at the loss of a uniform guess, never at that of
unigrams, until step 250. The loss falls from there to 0.01 nats above bigrams
(seed 0). With one head and d_model 32 that happened at step 1080 (seed 0), no
sooner than in markov. Two minutes on two cores.
"""

from configs import markov


def get_config():
  config = markov.get_config()
  config.task.doubly_stochastic = True
  config.train.num_steps = 2000
  # Scaling makes the rows more even. With less even rows to begin with, bigrams
  # gain 0.25 nats over a uniform guess (0.15 in markov, 0.10 with 1.0).
  config.task.dirichlet = 0.5
  return config
