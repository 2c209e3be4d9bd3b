"""A run small enough to train, measure and draw in seconds."""

import copy

import jax
import jax.numpy as jnp

from configs import quick
from induction_jax.measurements import Measurement
from induction_jax.run import loop
from induction_jax.run.schedule import TrainingSchedule
from induction_jax.run.store import RunStore
from induction_jax.run.timing import Timing

# Task settings that only Markov chains have, after those of `repeats`.
NO_CHAINS = (1.0, False, 1, False)

# Declared, so that they can be read, and measured no longer.
EARLIER = ("preconditioned_bottom_", "warm_start")


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
  """An experiment whose spectra need no Lanczos: the squares of the weights."""

  def measure(inputs):
    leaves = jax.tree.leaves(inputs.state.params)
    return {"spectral_norm": sum(jnp.sum(leaf**2) for leaf in leaves)}

  by_name = {each.name: each for each in experiment.all_measurements}
  spectra = by_name["spectra"]
  by_name["spectra"] = Measurement(
    name=spectra.name,
    interval=spectra.interval,
    variables=spectra.variables,
    measure=jax.jit(measure),
  )
  return experiment._replace(all_measurements=tuple(by_name.values()))


def run_in(directory, experiment, **options):
  """Runs an experiment in a directory, as the command train does."""
  return loop.run(
    experiment,
    TrainingSchedule(experiment.config, experiment.measurements),
    RunStore([directory], Timing(directory)),
    **options,
  )
