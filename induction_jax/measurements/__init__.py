"""Measurements: functions from a training state to named arrays.

Each measurement is one file, which applies `circuits`, `spectra` or
`transition` to the network. These three packages do not import one another or
the network.

A `Measurement` is a name, an interval, declarations of its variables, and pure
functions. To add one, write its file, add a section with its settings to
`induction_jax.config`, and register it in the table below:

  MEASUREMENTS["participation"] = Entry(make_participation)

Code outside the package registers in the same way before it makes an
experiment.

The null value of a variable is its value where there is nothing to find. It is
recorded as `<name>_null`:

  behaviour      head scores: uniform causal attention on the same batch.
                 Losses and accuracies: a uniform guess. In-context score: 0.
  alarm          the threshold at which the alarm is raised.
  markov         loss and KL divergence: a network that guesses uniformly.
  memory         the recall of a candidate chosen at random.
  circuits       scores: Gaussian weights of the same shapes, mean (exactly 0)
                 and standard deviation. Effective rank: mean and standard
                 deviation over the same networks. Fractions: k / V.
                 Composition: D^-1/2, and p-values from random rotations of
                 heads that keep their singular values.
  ablation       cost and importance: 0. Cost of a pair: the sum of the costs
                 of its two heads alone. Loss by path: a uniform guess.
                 Attribution: 0, as for a random target token.
  projection     a random direction: k / P.
  spectra        alignment, overlap and block mass: random directions or
                 subspaces, 1 / P, k / P and P_block / P. Eigenvalues have a
                 residual bound instead.
  participation  a random direction: 1 / 3.
  density        none. Every estimate has a standard error or bounds.
  blocks         none. Eigenvalues have a residual bound, and norms a standard
                 error.
"""

from collections.abc import Callable
from typing import NamedTuple

from induction_jax.config import Config
from induction_jax.measurements.ablation import make_ablation
from induction_jax.measurements.alarm import make_alarm
from induction_jax.measurements.batches import (
  EvaluationBatches,
  make_draw_batches,
)
from induction_jax.measurements.behaviour import make_behaviour
from induction_jax.measurements.blocks import make_blocks
from induction_jax.measurements.circuits import make_circuits
from induction_jax.measurements.curvature import Curvature, make_curvature
from induction_jax.measurements.density import make_density
from induction_jax.measurements.eigenpairs import find_largest
from induction_jax.measurements.markov import make_markov
from induction_jax.measurements.measurement import Inputs, Measurement
from induction_jax.measurements.memory import make_memory
from induction_jax.measurements.participation import make_participation
from induction_jax.measurements.projection import make_projection
from induction_jax.measurements.spectra import make_eigenvectors, make_spectra
from induction_jax.model import Model
from induction_jax.types import Variable

__all__ = [
  "MEASUREMENTS",
  "TRAIN_VARIABLES",
  "Curvature",
  "Entry",
  "EvaluationBatches",
  "Inputs",
  "Measurement",
  "all_variables",
  "find_largest",
  "make_curvature",
  "make_draw_batches",
  "make_measurements",
  "names_at_checkpoints",
]

TRAIN_VARIABLES = (
  Variable("train_loss", ("step",), "training loss, mean since last", "nats"),
  Variable("train_grad_norm", ("step",), "gradient norm, mean since last"),
)


class Entry(NamedTuple):
  """A measurement in the table of all measurements.

  Attributes:
    make: (config, model, curvature) -> the Measurement.
    setting: the setting `section.leaf` that decides whether the measurement
      applies to a run; empty if it applies to every run.
    values: the values of the setting for which the measurement applies.
    cumulative: whether it accumulates over the measurements of a run, so that
      it cannot be made at a single checkpoint.
  """

  make: Callable[[Config, Model, Curvature], Measurement]
  setting: str = ""
  values: tuple[str, ...] = ()
  cumulative: bool = False

  def applies_to(self, config: Config) -> bool:
    """Whether this measurement can be made in runs of this config."""
    if not self.setting:
      return True
    section, leaf = self.setting.split(".")
    return getattr(getattr(config, section), leaf) in self.values


# In the order in which they are made, cheap ones first.
MEASUREMENTS = {
  "behaviour": Entry(make_behaviour),
  "alarm": Entry(make_alarm, cumulative=True),
  "markov": Entry(make_markov, "task.name", ("markov",)),
  "memory": Entry(make_memory, "task.name", ("bigram_trigger",)),
  "circuits": Entry(make_circuits),
  "ablation": Entry(make_ablation),
  "projection": Entry(make_projection, "intervention.project", ("off", "onto")),
  "spectra": Entry(make_spectra),
  "eigenvectors": Entry(make_eigenvectors),
  "participation": Entry(make_participation),
  "density": Entry(make_density),
  "blocks": Entry(make_blocks),
}


def make_measurements(
  config: Config, model: Model, curvature: Curvature
) -> tuple[Measurement, ...]:
  """Makes every measurement that applies to a run. Interval 0 means off."""
  return tuple(
    entry.make(config, model, curvature)
    for entry in MEASUREMENTS.values()
    if entry.applies_to(config)
  )


def names_at_checkpoints() -> list[str]:
  """Names of the measurements that can be made at a single checkpoint."""
  return [name for name, each in MEASUREMENTS.items() if not each.cumulative]


def all_variables(
  measurements: tuple[Measurement, ...],
) -> tuple[Variable, ...]:
  """Declarations of all variables in a run's history."""
  declared = (measurement.variables for measurement in measurements)
  return sum(declared, TRAIN_VARIABLES)
