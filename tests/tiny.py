"""A run small enough to train, measure and draw in seconds."""

import copy

import jax
import jax.numpy as jnp

from configs import quick
from induction_jax.measurements import measurement

# Task settings that only Markov chains have, after those of `repeats`.
NO_CHAINS = (1.0, False, 1, False)

# Declared, so that they can be read, and measured no longer.
EARLIER = "preconditioned_bottom_"


def tiny_config(**overrides):
  """The tiny ConfigDict; overrides are named section__leaf."""
  config = copy.deepcopy(quick.get_config())
  settings = {
    "task__vocab_size": 11,
    "task__seq_length": 16,
    "task__pattern_min": 2,
    "task__pattern_max": 4,
    "task__gap_max": 2,
    "model__n_heads": 2,
    "model__d_model": 8,
    "train__num_steps": 24,
    "train__batch_size": 4,
    "behaviour__interval": 1,
    "behaviour__batch_size": 4,
    "circuits__interval": 6,
    "ablation__interval": 6,
    "spectra__eigen_interval": 6,
    "spectra__track_top_k_eigenvalues": 2,
    "spectra__preconditioned_top_k": 2,
    "spectra__batch_size": 4,
    "spectra__micro_batch_size": 2,
    "spectra__max_order": 12,
    "checkpoint__interval": 12,
  }
  for name, value in (settings | overrides).items():
    section, leaf = name.split("__")
    config[section][leaf] = value
  return config


def with_light_spectra(experiment):
  """The same, but its spectra cost no compilation: of the weights' squares."""

  def measure(state, held_out, prepared, carry):
    leaves = jax.tree.leaves(state.params)
    norm = sum(jnp.sum(leaf**2) for leaf in leaves)
    return {"spectral_norm": norm}, carry

  light = tuple(
    each._replace(
      constants=measurement.no_arrays,
      init_carry=measurement.nothing,
      prepare=measurement.nothing,
      measure=jax.jit(measure),
      complain=measurement.content,
      keep=measurement.no_arrays,
    )
    if each.name == "spectra"
    else each
    for each in experiment.probes
  )
  return experiment._replace(probes=light)
