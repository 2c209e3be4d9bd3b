"""Doubly stochastic: in-context Markov chains whose unigrams say nothing.

Question: what becomes of markov's plateau where in-context unigrams have
nothing to offer (Edelman et al. 2024)? Every token is as frequent as any other
in the long run.

Command:
  python -m induction_jax.train --config configs/markov_doubly_stochastic.py
"""

from configs import markov


def get_config():
  config = markov.get_config()
  config.task.doubly_stochastic = True
  # Scaling evens the matrices out; with rows that are less even from the
  # start, bigrams are worth as much as in `markov` and more.
  config.task.dirichlet = 0.5
  return config
