"""Curvature: every curvature measurement, across the transition.

Question: which circuits carry the curvature of the transition, does it belong
to the Gauss-Newton part or to the functional part of the Hessian, and how does
the spectral density change?

Command:
  python -m induction_jax.train --config configs/curvature.py

What to expect: the quick run up to step 800, with the spectral density, the
Hessian by circuit and the Gauss-Newton split every 50 steps; about eight
minutes on two cores.
"""

from configs import quick


def get_config():
  config = quick.get_config()
  config.train.num_steps = 800
  config.spectra.gauss_newton_top_k = 3
  config.spectra.keep_eigenvectors = True
  config.density.interval = 50
  config.blocks.interval = 50
  return config
