"""What may be allocated because a file or a config says so.

The bound, everywhere: half of this machine's memory.
"""

import os

from induction_jax.config import Config, ConfigError

GIB = 2**30


def check_fits(what: str, needed: int) -> None:
  """Checks a number of bytes before any of them is allocated.

  Args:
    what: whose they are, the subject of the message.
    needed: how many, at least.

  Raises:
    ConfigError: if they are more than half of this machine's memory.
  """
  allowed = memory_bytes() // 2
  if needed > allowed:
    raise ConfigError(
      f"{what} must take at most half of this machine's memory, "
      f"{allowed / GIB:.3g} GiB, got {_gib(needed)} GiB"
    )


def memory_bytes() -> int:
  """The machine's memory, whoever uses it."""
  return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_config(config: Config) -> None:
  """Checks that a machine like this one can hold a run at all.

  Raises:
    ConfigError: if the least that the run needs does not fit.
  """
  check_fits("this config", least_bytes(config))


def least_bytes(config: Config) -> int:
  """What a run takes at the very least, in float32; the truth is far above.

  Parameters with their gradient and the eigenvectors that a measurement leaves
  to the next, what samplers draw for a batch, one sequence's attention and
  logits, and the table of all pairs of heads.
  """
  task, model, spectra = config.task, config.model, config.spectra
  vocab, length, width = task.vocab_size, task.seq_length, model.d_model
  layer = 4 * width**2 + 2 * width * model.d_mlp
  positions = length if model.position == "learned" else 0
  parameters = (2 * vocab + positions) * width + model.n_layers * layer
  numbers = 2 * parameters
  if spectra.eigen_interval:
    vectors = 2 * spectra.track_top_k_eigenvalues
    numbers += vectors * parameters // config.mesh.params
  batch = max(config.train.batch_size, config.behaviour.batch_size)
  drawn = length + vocab
  if task.name in ("markov", "bigram_trigger"):
    drawn += vocab**2
  sequence = length * (vocab + width) + model.n_heads * length**2
  pairs = (model.n_layers * model.n_heads) ** 2
  return 4 * (numbers + batch * drawn + sequence + pairs)


def _gib(needed: int) -> str:
  gib = needed // GIB  # of whole numbers: no float holds every config's
  return f"{needed / GIB:.3g}" if gib < 10**6 else "more than a million"
