"""Meshes of devices: sharded batches, sharded vectors, and seeds of a sweep.

This module makes all meshes of the package. Programs are written for one
device; sharding constraints say how their arrays are distributed, and the
compiler inserts the communication. (The mean over a sharded batch is inserted
too: averaging over devices by hand would count it twice.)

The devices of one run shard its batches `mesh.data` ways and the Lanczos basis
`mesh.params` ways. If one number divides the other, the same devices do both;
in general the run needs their least common multiple. In a sweep, every seed
that is trained at the same time as others has that number of devices to itself.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from induction_jax.config import Config, ConfigError, MeshConfig
from induction_jax.types import Array, PyTree

SEEDS = "seeds"
# Axes of a run's mesh. Batches are sharded along the first two, vectors of
# parameters along the last two.
AXES = ("data", "both", "params")
DATA_AXES, PARAMS_AXES = AXES[:2], AXES[1:]


class Placement(NamedTuple):
  """How the arrays of a run are distributed over its devices.

  The methods add sharding constraints and are for use inside jit.

  Attributes:
    mesh: the devices, with axes AXES.
    data: number of shards of a batch.
    params: number of shards of a vector of parameters.
  """

  mesh: Mesh
  data: int
  params: int

  def shard_batch(self, batch: PyTree) -> PyTree:
    """Shards leaves [B, ...] along B."""
    return self._constrain(batch, PartitionSpec(DATA_AXES))

  def shard_micro_batches(self, batches: PyTree) -> PyTree:
    """Shards n micro-batches, leaves [n, B, ...], along B."""
    return self._constrain(batches, PartitionSpec(None, DATA_AXES))

  def shard_vectors(self, vectors: Array) -> Array:
    """Shards vectors [..., P] along P."""
    leading = [None] * (vectors.ndim - 1)
    return self._constrain(vectors, PartitionSpec(*leading, PARAMS_AXES))

  def replicate(self, tree: PyTree) -> PyTree:
    """Copies every leaf to all devices."""
    return self._constrain(tree, PartitionSpec())

  def _constrain(self, tree: PyTree, spec: PartitionSpec) -> PyTree:
    if self.mesh.size == 1:
      return tree
    # In a sweep a seed runs under a larger mesh, which it sees abstractly.
    context = jax.sharding.get_abstract_mesh()
    sharding = NamedSharding(self.mesh if context.empty else context, spec)
    return jax.lax.with_sharding_constraint(tree, sharding)


def make_placement(c: MeshConfig) -> Placement:
  """The devices of one run.

  Raises:
    ConfigError: if there are too few devices.
  """
  mesh = _make_mesh(1, c, f"mesh.data={c.data}, mesh.params={c.params}")
  return Placement(Mesh(mesh.devices[0], AXES), c.data, c.params)


def make_seeds_mesh(c: MeshConfig, group: int) -> Mesh:
  """The devices of a group of seeds that are trained together.

  Args:
    c: where `seeds` is 0, the seeds are sharded over as many sets of devices as
      divide the group.
    group: number of seeds.

  Returns:
    A mesh with axes SEEDS and AXES.

  Raises:
    ConfigError: if there are too few devices, or `seeds` does not divide the
      group.
  """
  if c.seeds and group % c.seeds:
    raise ConfigError(
      "mesh.seeds must divide the number of seeds trained at once (--group), "
      f"got mesh.seeds={c.seeds}, group={group}"
    )
  sets = max(1, jax.device_count() // devices_per_seed(c))
  seeds = c.seeds or math.gcd(group, sets)
  settings = f"mesh.seeds={seeds}, mesh.data={c.data}, mesh.params={c.params}"
  return _make_mesh(seeds, c, settings)


def seeds_sharding(mesh: Mesh) -> NamedSharding:
  """The sharding of arrays whose leading axis is the seeds."""
  return NamedSharding(mesh, PartitionSpec(SEEDS))


def on_one_device(config: Config) -> Config:
  """The config with a mesh of one device, for commands that only read a run."""
  return dataclasses.replace(config, mesh=MeshConfig(data=1, seeds=0, params=1))


def fit_to_devices(config: Config) -> Config:
  """The config, with a mesh of one device if there are too few for its own."""
  fits = devices_per_seed(config.mesh) <= jax.device_count()
  return config if fits else on_one_device(config)


def check_all_devices_used(needed: int) -> None:
  """Checks that a mesh of several processes includes all their devices.

  A process without a device in the mesh would wait for ever.

  Args:
    needed: number of devices in the mesh.

  Raises:
    ConfigError: if there are several processes and the mesh leaves devices out.
  """
  available = jax.device_count()
  if jax.process_count() > 1 and needed < available:
    raise ConfigError(
      f"with --distributed section mesh must use all devices, {available}, got "
      f"one of {needed}"
    )


def devices_per_seed(c: MeshConfig) -> int:
  """Number of devices that one run needs, or one seed of a sweep."""
  return math.lcm(c.data, c.params)


def _make_mesh(seeds: int, c: MeshConfig, settings: str) -> Mesh:
  both = math.gcd(c.data, c.params)
  shape = (seeds, c.data // both, both, c.params // both)
  needed, available = math.prod(shape), jax.device_count()
  if needed > available:
    raise ConfigError(
      f"section mesh must fit the devices, of which there are {available}, got "
      f"{settings}, which need {needed}"
    )
  return Mesh(np.array(jax.devices()[:needed]).reshape(shape), (SEEDS, *AXES))
