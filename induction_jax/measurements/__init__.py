"""What is measured: from a training state to named arrays, one file each.

The three sciences (curvature in `spectra`, heads in `circuits`, time in
`transition`) know nothing of one another; here they meet the network.

A measurement is a `Measurement`: a name, an interval, declarations of its
variables, and pure functions. To add one, write its function in a file, give
its settings a section in `induction_jax.config`, and register it here:

  MEASUREMENTS["participation"] = Entry(make_participation)

Code outside the package does the same before it builds an experiment.
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
    setting: a setting `section.leaf` on which it depends whether the
      measurement applies to a run; empty if it applies to every run.
    values: the values of the setting with which it applies.
    cumulative: whether it sums over all measurements before, so that it has no
      value at a checkpoint alone.
  """

  make: Callable[[Config, Model, Curvature], Measurement]
  setting: str = ""
  values: tuple[str, ...] = ()
  cumulative: bool = False

  def applies_to(self, config: Config) -> bool:
    """Whether runs of this config can be measured so."""
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
  """Every measurement that applies to a run; those of interval 0 are off."""
  return tuple(
    entry.make(config, model, curvature)
    for entry in MEASUREMENTS.values()
    if entry.applies_to(config)
  )


def names_at_checkpoints() -> list[str]:
  """Names of the measurements that can be made at a checkpoint alone."""
  return [name for name, each in MEASUREMENTS.items() if not each.cumulative]


def all_variables(
  measurements: tuple[Measurement, ...],
) -> tuple[Variable, ...]:
  """Declarations of everything a run's history may hold."""
  declared = (measurement.variables for measurement in measurements)
  return sum(declared, TRAIN_VARIABLES)
