"""Lead and lag: quick's first 700 steps, its curvature every 10 of them.

Question: does curvature move before the induction head forms?

Command:
  python -m induction_jax.sweep --config configs/lead_lag.py --seeds 48 \
    --workdir runs/lead_lag
(python experiments/lead_lag.py adds the controls, and dates every event.)

What to expect: a transition in nearly every seed, its onset between steps 250
and 500; the top eigenvalue leaves its baseline with accuracy, and the norm of
the held-out gradient about 8 steps before it.
"""

from configs import quick


def get_config():
  config = quick.get_config()
  config.train.num_steps = 700
  config.circuits.interval = 0
  config.ablation.interval = 700  # for the verdict, at the end
  config.spectra.eigen_interval = 10
  config.spectra.batch_size = 8
  config.spectra.track_top_k_eigenvalues = 1
  config.spectra.preconditioned_top_k = 1
  # For the trace alone, so with the least of the density itself.
  config.density.interval = 10
  config.density.probes = 2
  config.density.order = 10
  config.density.trace_probes = 16
  config.checkpoint.interval = 350
  config.checkpoint.log_spaced = False
  return config
