"""The optimiser of a run whose updates are frozen in part, or projected."""

from collections.abc import Callable

import jax
import numpy as np
import optax

from induction_jax import spectra
from induction_jax.config import Config, ConfigError
from induction_jax.interventions.freeze import freeze, frozen_mask
from induction_jax.interventions.project import Eigenspace, project
from induction_jax.training.state import stream
from induction_jax.types import Key, Params

# Draw of the stream "spectra" that no probe uses.
LANCZOS_DRAW = 100

Largest = Callable[[spectra.Operator, Params, int, Key], spectra.Eigenpairs]


def intervene(
  tx: optax.GradientTransformation,
  config: Config,
  shapes: Params,
  partition: spectra.Partition,
  hessian_at: Callable[[Params, Key], spectra.Operator],
  largest: Largest,
) -> optax.GradientTransformation:
  """The optimiser with the interventions of a config; itself if it has none.

  What is frozen is out of everything: the optimiser sees no gradient of it
  (nor does clipping), the eigenspace is that of the Hessian of the other
  parameters, and the update is zero, weight decay or not.

  Args:
    tx: the optimiser.
    config: of the run.
    shapes: the parameters, or their shapes.
    partition: of the parameters into blocks, to freeze by.
    hessian_at: (params, the run's key) -> the Hessian to project with.
    largest: (operator, params, k, key) -> its k largest eigenpairs.

  Raises:
    ConfigError: if a name does not exist, or there are fewer parameters than
      eigenvectors wanted.
  """
  c = config.intervention
  mask = frozen_mask(c.freeze, shapes, partition)
  if c.project != "none":
    free = sum(int(np.sum(~frozen)) for frozen in mask.values())
    if c.project_top_k > free:
      raise ConfigError(
        "intervention.project_top_k must be at most the number of parameters "
        f"that are not frozen, {free}, got {c.project_top_k}"
      )
    eigenspace = _make_eigenspace(config, mask, hessian_at, largest)
    onto = c.project == "onto"
    projection = project(
      eigenspace, c.project_top_k, c.project_interval, onto=onto
    )
    tx = optax.chain(tx, projection)
  if c.freeze:
    tx = optax.chain(freeze(mask), tx, freeze(mask))
  return tx


def _make_eigenspace(
  config: Config,
  mask: dict[str, np.ndarray],
  hessian_at: Callable[[Params, Key], spectra.Operator],
  largest: Largest,
) -> Eigenspace:
  """The k largest eigenvalues, signed, of the Hessian of what is not frozen."""
  free = jax.tree.map(np.logical_not, mask)

  def eigenspace(params: Params, key: Key) -> spectra.Eigenpairs:
    hessian = hessian_at(params, key)
    if config.intervention.freeze:
      hessian = spectra.restrict(hessian, free)
    draw = jax.random.fold_in(stream(key, "spectra"), LANCZOS_DRAW)
    return largest(hessian, params, config.intervention.project_top_k, draw)

  return eigenspace
