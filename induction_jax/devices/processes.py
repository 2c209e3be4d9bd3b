"""Several processes that make up one run, on one machine or on many.

Each runs the same program on arrays that lie on the devices of all, and so
all must come to the same programs in the same order. Whatever one may see
alone (a signal, a clock, a file) is agreed upon before it decides anything.
The first process reads and writes for all of them.

Alone, a process asks nobody. With others, every function here that is not
about this process must be called by all of them.
"""

import sys
from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from induction_jax.devices.keys import is_key, key_data, wrap_keys
from induction_jax.types import Key, PyTree

# While the first draws its figures the others wait for the end.
LEAVE_SECONDS = 3600

Result = TypeVar("Result")


def connect(
  coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
  """Makes this process one of several, before anything else of jax.

  What is None jax reads off SLURM, Open MPI or a TPU pod.

  Raises:
    RuntimeError: if the others are not found in time.
    ValueError: if something is not given and cannot be read off.
  """
  jax.distributed.initialize(
    coordinator,
    num_processes,
    process_id,
    shutdown_timeout_seconds=LEAVE_SECONDS,
  )


def disconnect() -> None:
  """Waits for the others and leaves them; nothing here may follow."""
  if not is_single():
    jax.distributed.shutdown()


def is_connected() -> bool:
  """Whether this process is one of several, or about to be."""
  return jax.distributed.is_initialized()


def is_single() -> bool:
  """Whether this process is the only one."""
  return jax.process_count() == 1


def is_first() -> bool:
  """Whether this process reads and writes."""
  return jax.process_index() == 0


def max_over_processes(number: int) -> int:
  """The largest of the numbers that the processes have."""
  if is_single():
    return number
  return int(np.max(multihost_utils.process_allgather(np.int32(number))))


def broadcast(tree: PyTree) -> PyTree:
  """What the first process has, to the bit: arrays on the host.

  Args:
    tree: numbers, or arrays of numpy; of the same shapes in every process.
  """
  arrays = jax.tree.map(np.asarray, tree)
  if is_single():
    return arrays
  # As bytes: a sum, by which it is sent, knows no negative zero.
  sent = multihost_utils.broadcast_one_to_all(
    jax.tree.map(lambda x: np.frombuffer(x.tobytes(), np.uint8), arrays)
  )
  return jax.tree.map(
    lambda x, y: np.frombuffer(y.tobytes(), x.dtype).reshape(x.shape),
    arrays,
    sent,
  )


def broadcast_keys_too(tree: PyTree) -> PyTree:
  """Arrays and keys of one device, in every process as the first has them."""
  return wrap_keys(tree, broadcast(key_data(tree)))


def on_first_process(work: Callable[[], Result]) -> Result | None:
  """What the first process makes of its work; None in the others.

  If it fails, all end: the first by what it raised, the others quietly.
  """
  result, error = None, None
  if is_first():
    try:
      result = work()
    except Exception as raised:  # whatever it is, the others must know
      error = raised
  failed = max_over_processes(int(error is not None))
  if failed:
    disconnect()  # together, for all know
  if error is not None:
    raise error
  if failed:
    sys.exit(failed)
  return result


def gather(tree: PyTree) -> PyTree:
  """Arrays of many devices as arrays of one, a device of this process."""
  return tree if is_single() else jax.tree.map(_gather, tree)


def fetch(tree: PyTree) -> PyTree:
  """Arrays on the host."""
  return jax.device_get(gather(tree))


def place_like(like: PyTree, tree: PyTree) -> PyTree:
  """Arrays of one device where those of `like` are."""
  return jax.tree.map(_place_like, like, tree)


def shard_keys(keys: Key, sharding: Sharding) -> Key:
  """Keys that every process has, shared among the devices of all.

  Args:
    keys: of any shape.
    sharding: of their data, whose last axis is of words.
  """
  data = _shard(np.asarray(jax.random.key_data(keys)), sharding)
  return jax.random.wrap_key_data(data, impl=jax.random.key_impl(keys))


def _gather(x: Any) -> Any:
  if not isinstance(x, jax.Array) or x.is_fully_addressable:
    return x
  if not x.is_fully_replicated:
    mesh = cast(NamedSharding, x.sharding).mesh
    everywhere = NamedSharding(mesh, PartitionSpec())
    x = jax.jit(lambda x: x, out_shardings=everywhere)(x)
  return x.addressable_data(0)


def _place_like(like: Any, x: Any) -> Any:
  if not isinstance(like, jax.Array):
    return np.asarray(x)
  if is_key(like):
    data = jax.random.key_data(like)
    return shard_keys(x, data.sharding)
  return _shard(np.asarray(x), like.sharding)


def _shard(values: np.ndarray, sharding: Sharding) -> jax.Array:
  return jax.make_array_from_callback(
    values.shape, sharding, lambda index: values[index]
  )
