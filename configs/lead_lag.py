r"""Lead and lag: the first 700 steps of quick, with curvature every 10 steps.

Question: does curvature change before the induction head forms?

Command:
  python -m induction_jax.sweep --config configs/lead_lag.py --seeds 48 \
    --workdir runs/lead_lag
(python -m experiments.lead_lag adds the controls and dates every event.)

What to expect: a transition in nearly every seed, with its onset between steps
250 and 500. The top eigenvalue leaves its baseline together with accuracy, and
the norm of the held-out gradient about 8 steps earlier.
"""

from configs import quick


def get_config():
  config = quick.get_config()
  config.train.num_steps = 700
  config.circuits.interval = 0
  config.ablation.interval = 700  # at the last step, for the verdict
  config.spectra.eigen_interval = 10
  config.spectra.batch_size = 8
  config.spectra.track_top_k_eigenvalues = 1
  config.spectra.preconditioned_top_k = 1
  # Only the trace is needed, so the density itself is as cheap as possible.
  config.density.interval = 10
  config.density.probes = 2
  config.density.order = 10
  config.density.trace_probes = 16
  config.checkpoint.interval = 350
  config.checkpoint.log_spaced = False
  return config
