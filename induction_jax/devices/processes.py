"""Runs of several processes, on one machine or on several hosts.

Every process runs the same program on arrays that are sharded over the devices
of all processes, so all processes must start the same programs in the same
order. What one process observes on its own (a signal, the time, a file) is
therefore agreed on before it decides anything. The first process reads and
writes the files of the run.

The functions below that communicate must be called by all processes. In a run
of a single process they return their argument without communicating.
"""

import sys
from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from induction_jax.types import Key, PyTree

# The other processes wait this long at the end, while the first draws figures.
SHUTDOWN_TIMEOUT_SECONDS = 3600

Result = TypeVar("Result")


def connect(
  coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
  """Connects this process to the others, before any other use of jax.

  Arguments that are None are detected by jax from SLURM, Open MPI or a TPU pod.

  Args:
    coordinator: host:port of the first process.
    num_processes: number of processes in the run.
    process_id: index of this process, from 0.

  Raises:
    RuntimeError: if the other processes do not connect in time.
    ValueError: if an argument is None and cannot be detected.
  """
  jax.distributed.initialize(
    coordinator,
    num_processes,
    process_id,
    shutdown_timeout_seconds=SHUTDOWN_TIMEOUT_SECONDS,
  )


def disconnect() -> None:
  """Waits for the other processes; no communication is possible afterwards."""
  if not is_single():
    jax.distributed.shutdown()


def is_connected() -> bool:
  """Whether `connect` has been called."""
  return jax.distributed.is_initialized()


def is_single() -> bool:
  """Whether the run has a single process."""
  return jax.process_count() == 1


def is_first() -> bool:
  """Whether this process is the one that reads and writes files."""
  return jax.process_index() == 0


def max_over_processes(number: int) -> int:
  """The maximum of a number over all processes."""
  if is_single():
    return number
  return int(np.max(multihost_utils.process_allgather(np.int32(number))))


def broadcast(tree: PyTree) -> PyTree:
  """Sends the values of the first process to all, bit for bit.

  Args:
    tree: numbers, arrays and typed keys, each on one device or the host, and of
      the same shape in every process.

  Returns:
    The tree of the first process, with numpy arrays for numbers and arrays.
  """
  arrays = jax.tree.map(np.asarray, key_data(tree))
  if not is_single():
    arrays = _broadcast_arrays(arrays)
  return wrap_keys(tree, arrays)


def on_first_process(work: Callable[[], Result]) -> Result | None:
  """Calls a function in the first process only.

  If it raises, every process ends: the first with the exception, the others
  without a message.

  Returns:
    What the function returned; None in the other processes.
  """
  result, error = None, None
  if is_first():
    try:
      result = work()
    except Exception as raised:  # of any kind: the other processes must end
      error = raised
  failed = max_over_processes(int(error is not None))
  if failed:
    disconnect()  # all processes have learnt of it, so all come here
  if error is not None:
    raise error
  if failed:
    sys.exit(failed)
  return result


def gather(tree: PyTree) -> PyTree:
  """Unsharded copies of arrays, on a device of this process."""
  return tree if is_single() else jax.tree.map(_gather, tree)


def fetch(tree: PyTree) -> PyTree:
  """Unsharded copies of arrays, on the host."""
  return jax.device_get(gather(tree))


def place_like(like: PyTree, tree: PyTree) -> PyTree:
  """Places unsharded arrays with the shardings of the arrays in `like`."""
  return jax.tree.map(_place_like, like, tree)


def shard_keys(keys: Key, sharding: Sharding) -> Key:
  """Shards typed keys that every process has.

  Args:
    keys: of any shape.
    sharding: of their raw data, which has one more axis, for the words of a
      key.
  """
  data = _shard(np.asarray(jax.random.key_data(keys)), sharding)
  return jax.random.wrap_key_data(data, impl=jax.random.key_impl(keys))


def key_data(tree: PyTree) -> PyTree:
  """Replaces typed keys by their raw data.

  Files and messages between processes can hold raw data only.
  """
  return jax.tree.map(
    lambda x: jax.random.key_data(x) if is_key(x) else x, tree
  )


def wrap_keys(like: PyTree, tree: PyTree) -> PyTree:
  """Inverse of key_data: makes keys of the raw data where `like` has keys."""

  def wrap(expected: Any, x: Any) -> Any:
    if not is_key(expected):
      return x
    return jax.random.wrap_key_data(x, impl=jax.random.key_impl(expected))

  return jax.tree.map(wrap, like, tree)


def is_key(x: Any) -> bool:
  """Whether a leaf is an array of typed keys."""
  return isinstance(x, jax.Array) and jax.dtypes.issubdtype(
    x.dtype, jax.dtypes.prng_key
  )


def _broadcast_arrays(arrays: PyTree) -> PyTree:
  # As bytes: broadcasting sums over processes, which loses negative zeros.
  received = multihost_utils.broadcast_one_to_all(
    jax.tree.map(lambda x: np.frombuffer(x.tobytes(), np.uint8), arrays)
  )
  return jax.tree.map(
    lambda x, y: np.frombuffer(y.tobytes(), x.dtype).reshape(x.shape),
    arrays,
    received,
  )


def _gather(x: Any) -> Any:
  if not isinstance(x, jax.Array) or x.is_fully_addressable:
    return x
  if not x.is_fully_replicated:
    mesh = cast(NamedSharding, x.sharding).mesh
    replicated = NamedSharding(mesh, PartitionSpec())
    x = jax.jit(lambda x: x, out_shardings=replicated)(x)
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
