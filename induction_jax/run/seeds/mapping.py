"""One program over many seeds: a function of one becomes one of them all."""

from collections.abc import Callable

import jax
from jax.sharding import Mesh, PartitionSpec

from induction_jax.devices.mesh import SEEDS
from induction_jax.types import PyTree

MAPPINGS = ("map", "vmap")

# One seed's function: what all seeds share, then what is the seed's own.
OfOne = Callable[..., PyTree]
OfAll = Callable[..., PyTree]


def default_mapping() -> str:
  """One seed after another on a CPU, all at once on an accelerator.

  A CPU gains nothing from small products in batches, and its loops wait for
  the slowest seed (experiments/scaling/seeds.py measures both).
  """
  return "map" if jax.default_backend() == "cpu" else "vmap"


def over_seeds(function: OfOne, mapping: str, mesh: Mesh) -> OfAll:
  """Maps a function of one seed over stacked ones.

  With `map` each device takes its seeds one after another, each by the
  operations of a run of its own: on a CPU its bits are the same. With `vmap`
  it takes all at once, in batches, which round otherwise; and a loop goes on
  until its last seed is done. A device keeps to its own seeds and waits for no
  other, not even in a loop: nothing is ever exchanged, but among the devices
  of one seed where it has several. (One seed on a device is no loop, and is
  rounded otherwise again.)

  Args:
    function: (shared, *own) -> pytree of arrays.
    mapping: one of MAPPINGS.
    mesh: from make_seeds_mesh.

  Returns:
    (shared, *stacked) -> stacked: every leaf but those of `shared` has a
    leading axis [N], shared equally along the mesh's SEEDS.
  """

  def here(shared: PyTree, *stacked: PyTree) -> PyTree:
    if mapping == "vmap":
      return jax.vmap(lambda *own: function(shared, *own))(*stacked)
    return jax.lax.map(lambda own: function(shared, *own), stacked)

  if mesh.shape[SEEDS] == 1:
    return here

  def everywhere(shared: PyTree, *stacked: PyTree) -> PyTree:
    own = PartitionSpec(SEEDS)
    return jax.shard_map(
      here,
      mesh=mesh,
      in_specs=(PartitionSpec(), *(own for _ in stacked)),
      out_specs=own,
      axis_names={SEEDS},  # along the others each seed places its own
      # Loops begin from constants, which are not yet any device's own.
      check_vma=False,
    )(shared, *stacked)

  return everywhere
