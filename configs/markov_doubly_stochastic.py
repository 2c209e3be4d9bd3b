"""Doubly stochastic: in-context Markov chains whose unigrams say nothing.

Question: what becomes of markov's plateau where in-context unigrams have
nothing to offer (Edelman et al. 2024)? Every token is as frequent as any other
in the long run.

Command:
  python -m induction_jax.train --config configs/markov_doubly_stochastic.py

What to expect: the plateau is at the uniform guess, never at unigrams, until
step 250, and the loss falls from there to 0.01 nats above bigrams (seed 0).
With one head and d_model 32 that was at step 1080 (seed 0), no sooner than in
markov. Two minutes on two cores.
"""

from configs import markov


def get_config():
  config = markov.get_config()
  config.task.doubly_stochastic = True
  config.train.num_steps = 2000
  # Scaling evens the matrices out. With rows less even from the start bigrams
  # are worth 0.25 nats over a uniform guess (0.15 in markov, 0.10 with 1.0).
  config.task.dirichlet = 0.5
  return config
