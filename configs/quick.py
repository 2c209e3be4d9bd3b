"""Quick: every standard measurement in a few minutes on a laptop.

Question: what does the loss Hessian of a two-layer attention-only transformer
do while an induction head forms?

Command:
  python -m induction_jax.train --config configs/quick.py

What to expect: the transition near step 400; pattern accuracy rises from 0.2 to
1.0 within 100 steps; a previous-token head in layer 0 and an induction head in
layer 1; the top eigenvalue rises four- to twelvefold across the transition.
"""

from configs import base


def get_config():
  config = base.get_config()
  config.task.seq_length = 64
  config.task.pattern_max = 12
  config.task.gap_max = 8
  config.model.n_heads = 4
  config.model.d_model = 64
  config.optim.learning_rate = 3e-3
  config.train.num_steps = 2000
  config.train.batch_size = 32
  config.behaviour.interval = 10
  config.behaviour.batch_size = 32
  config.circuits.interval = 50
  config.ablation.interval = 50
  config.spectra.eigen_interval = 50
  config.spectra.track_top_k_eigenvalues = 5
  config.spectra.batch_size = 16
  config.spectra.preconditioned_top_k = 1
  config.checkpoint.interval = 200
  return config
