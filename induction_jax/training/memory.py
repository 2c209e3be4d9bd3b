"""Memory: whether a run fits this machine, and which micro-batch fits a cache.

Both are computed from shapes, before anything is allocated.
"""

import math

from induction_jax import tasks
from induction_jax.config import Config
from induction_jax.devices.limits import check_fits
from induction_jax.model import parameter_shapes

# On a CPU, a micro-batch is chosen such that the attention scores of one layer
# take at most this many bytes. They then stay in the cache between the products
# that make and use them. Hessian-vector products hold tangents as well.
TRAINING_BYTES, MEASURING_BYTES = 8 * 2**20, 4 * 2**20


def plan_micro_batch(config: Config, platform: str) -> int:
  """Sequences in a micro-batch of training.

  This is `train.micro_batch_size`, or the largest that fits the cache if that
  is 0.
  """
  if config.train.micro_batch_size:
    return config.train.micro_batch_size
  return fit_cache(config, config.train.batch_size, platform, TRAINING_BYTES)


def fit_cache(
  config: Config, size: int, platform: str, cache_bytes: int
) -> int:
  """The largest micro-batch whose attention scores fit a CPU's cache.

  Args:
    config: of the run. The devices that share a batch (`mesh.data`) have a
      cache each and take equal shares of a micro-batch.
    size: sequences in the batch.
    platform: other platforms than "cpu" take the batch as one micro-batch.
    cache_bytes: most bytes of the scores of one layer on one device.

  Returns:
    A divisor of `size` and multiple of `mesh.data`; `mesh.data` itself if no
    micro-batch fits.
  """
  if platform != "cpu":
    return size
  devices = config.mesh.data
  score_bytes = 4 * config.model.n_heads * config.task.seq_length**2
  return max(
    n
    for n in range(devices, size + 1, devices)
    if size % n == 0
    and (n == devices or n // devices * score_bytes <= cache_bytes)
  )


def check_memory(config: Config) -> None:
  """Checks that a run can fit this machine, before anything is allocated.

  Raises:
    ConfigError: if the lower bound on its memory does not fit.
  """
  check_fits("this config", least_bytes(config))


def least_bytes(config: Config) -> int:
  """A lower bound on the memory of a run, in float32.

  It counts the parameters and their gradient, the eigenvectors that one
  measurement keeps for the next, what samplers draw for a batch, the attention
  patterns and logits of one sequence, and the table of all pairs of heads. A
  run takes several times as much.
  """
  task, model, spectra = config.task, config.model, config.spectra
  vocab, length = task.vocab_size, task.seq_length
  shapes = parameter_shapes(model, vocab, length)
  parameters = sum(math.prod(shape) for shape in shapes.values())
  numbers = 2 * parameters
  if spectra.eigen_interval:
    vectors = 2 * spectra.track_top_k_eigenvalues
    numbers += vectors * parameters // config.mesh.params
  batch = max(config.train.batch_size, config.behaviour.batch_size)
  drawn = length + vocab
  if task.name in tasks.CHAINS:
    drawn += vocab**2
  sequence = length * (vocab + model.d_model) + model.n_heads * length**2
  pairs = (model.n_layers * model.n_heads) ** 2
  return 4 * (numbers + batch * drawn + sequence + pairs)
