"""One measurement: what a probe finds of a state, as it leaves the device."""

from pathlib import Path

import jax
import numpy as np

from induction_jax.devices import processes
from induction_jax.measurements import HeldOut, Probe
from induction_jax.storage.tensors import write_eigenvectors
from induction_jax.training.state import TrainState
from induction_jax.types import PyTree


def observe(
  probe: Probe, state: TrainState, held_out: HeldOut, carry: PyTree
) -> tuple[PyTree, PyTree]:
  """One measurement as it leaves the device, and the carry for the next."""
  prepared = probe.prepare(state, held_out)
  arrays, carry = probe.measure(state, held_out, prepared, carry)
  return processes.fetch(arrays), carry


def measure(
  probe: Probe, state: TrainState, held_out: HeldOut, carry: PyTree
) -> tuple[dict[str, np.ndarray], PyTree]:
  """One measurement: named values on the host, and the carry for the next."""
  arrays, carry = observe(probe, state, held_out, carry)
  return probe.finish(arrays), carry


def measure_constants(
  probe: Probe, state: TrainState, held_out: HeldOut
) -> dict[str, np.ndarray]:
  """A probe's constants, on the host."""
  constants = jax.device_get(probe.constants(state, held_out))
  return probe.finish_constants(constants)


def keep_vectors(
  probe: Probe, directory: Path, step: int, carry: PyTree
) -> None:
  """Writes what a probe wants kept of a measurement, if anything."""
  if kept := probe.keep(carry):
    write_eigenvectors(directory, step, jax.device_get(kept))
