"""Which devices share a batch, the seeds of a sweep, and long vectors.

The one place that makes meshes. Programs stay plain: arrays are constrained to
lie somewhere, and the compiler adds what must be exchanged, means over a
shared batch included (an average added by hand would count twice).

The devices of one run share its batches among `mesh.data` of them and the
basis of Lanczos among `mesh.params`; they are the same devices where one of
the two divides the other, and their least common multiple is needed in all.
Each seed of a sweep that is trained beside others has so many of its own.
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
# A batch is shared along the first two, a vector along the last two.
AXES = ("data", "both", "params")
OF_DATA, OF_PARAMS = AXES[:2], AXES[1:]


class Placement(NamedTuple):
  """Where the arrays of a run are. Its methods are for traced code alone.

  Attributes:
    mesh: the devices, along AXES.
    data: how many share a batch.
    params: how many share a long vector.
  """

  mesh: Mesh
  data: int
  params: int

  def shard_batch(self, batch: PyTree) -> PyTree:
    """Shares leaves [B, ...] by their examples."""
    return self._constrain(batch, PartitionSpec(OF_DATA))

  def shard_micro_batches(self, batches: PyTree) -> PyTree:
    """Shares leaves [n, B, ...], n micro-batches, by the examples of each."""
    return self._constrain(batches, PartitionSpec(None, OF_DATA))

  def shard_vectors(self, vectors: Array) -> Array:
    """Shares [..., P] by the last axis."""
    before = [None] * (vectors.ndim - 1)
    return self._constrain(vectors, PartitionSpec(*before, OF_PARAMS))

  def replicate(self, tree: PyTree) -> PyTree:
    """Leaves that every device has the whole of."""
    return self._constrain(tree, PartitionSpec())

  def _constrain(self, tree: PyTree, spec: PartitionSpec) -> PyTree:
    if self.mesh.size == 1:
      return tree
    # Of many seeds each sees its own devices of a larger mesh.
    context = jax.sharding.get_abstract_mesh()
    sharding = NamedSharding(self.mesh if context.empty else context, spec)
    return jax.lax.with_sharding_constraint(tree, sharding)


def make_placement(c: MeshConfig) -> Placement:
  """The devices of one run.

  Raises:
    ConfigError: if there are not enough.
  """
  mesh = _make_mesh(1, c, f"mesh.data={c.data}, mesh.params={c.params}")
  return Placement(Mesh(mesh.devices[0], AXES), c.data, c.params)


def make_seeds_mesh(c: MeshConfig, group: int) -> Mesh:
  """The devices of a group of seeds, along SEEDS and AXES.

  By default the most that can share the seeds equally.

  Raises:
    ConfigError: if there are not enough, or the seeds cannot be shared so.
  """
  if c.seeds and group % c.seeds:
    raise ConfigError(
      "mesh.seeds must divide the number of seeds trained at once (--group), "
      f"got mesh.seeds={c.seeds}, group={group}"
    )
  seeds = c.seeds or math.gcd(group, max(1, jax.device_count() // devices(c)))
  told = f"mesh.seeds={seeds}, mesh.data={c.data}, mesh.params={c.params}"
  return _make_mesh(seeds, c, told)


def seeds_sharding(mesh: Mesh) -> NamedSharding:
  """Arrays whose leading axis is of seeds, shared among the devices."""
  return NamedSharding(mesh, PartitionSpec(SEEDS))


def on_one_device(config: Config) -> Config:
  """The same, for whoever only reads a run."""
  return dataclasses.replace(config, mesh=MeshConfig(data=1, seeds=0, params=1))


def fit_to_devices(config: Config) -> Config:
  """The same, on one device where there are fewer than it was trained on."""
  fits = devices(config.mesh) <= jax.device_count()
  return config if fits else on_one_device(config)


def check_all_devices_used(needed: int) -> None:
  """Refuses a mesh without some of several processes, which would wait.

  Raises:
    ConfigError: if there are several and fewer devices needed than there are.
  """
  there = jax.device_count()
  if jax.process_count() > 1 and needed < there:
    raise ConfigError(
      f"with --distributed section mesh must use all devices, {there}, got one "
      f"of {needed}"
    )


def devices(c: MeshConfig) -> int:
  """How many devices a run has, or each seed that is trained at once."""
  return math.lcm(c.data, c.params)


def _make_mesh(seeds: int, c: MeshConfig, told: str) -> Mesh:
  both = math.gcd(c.data, c.params)
  shape = (seeds, c.data // both, both, c.params // both)
  needed, there = math.prod(shape), jax.device_count()
  if needed > there:
    raise ConfigError(
      f"section mesh must fit the devices, of which there are {there}, got "
      f"{told}, which need {needed}"
    )
  return Mesh(np.array(jax.devices()[:needed]).reshape(shape), (SEEDS, *AXES))
