"""How many seeds fit in memory at once, from shapes alone."""

import jax

from induction_jax.run.experiment import Experiment
from induction_jax.types import PyTree


def seed_bytes(experiment: Experiment) -> int:
  """An estimate of what one more seed keeps on its device.

  Twice its state and carries (those of before and after), its held-out
  batches, and the largest of what the probes prepare: the Hessian's linear
  map, where it is kept, about the size of the activations of the spectra's
  batch, which also stands for those of training. A probe's own work is not
  in it: twice the estimate is safe.

  Args:
    experiment: from make_pure_experiment.
  """
  state = jax.eval_shape(experiment.init)
  held_out = jax.eval_shape(experiment.draw, state.key)
  carries = [
    jax.eval_shape(probe.init_carry, state.params)
    for probe in experiment.probes
  ]
  prepared = [
    _bytes(jax.eval_shape(probe.prepare, state, held_out))
    for probe in experiment.probes
  ]
  return 2 * _bytes((state, carries)) + _bytes(held_out) + max(prepared)


def group_size(seeds: int, each: int, memory: int, devices: int) -> int:
  """The most seeds at once: a divisor of them all whose share fits a device.

  Args:
    seeds: how many in all.
    each: bytes of one.
    memory: bytes that a device may give.
    devices: how many there are.
  """
  fit = max(1, memory // each) * devices
  return max(n for n in range(1, seeds + 1) if seeds % n == 0 and n <= fit)


def _bytes(tree: PyTree) -> int:
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
