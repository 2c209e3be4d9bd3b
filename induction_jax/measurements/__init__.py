"""What is measured, and when: training state -> named arrays.

The three sciences (curvature, circuits, behaviour in time) know nothing of one
another; here each meets the network.
"""

from induction_jax.config import Config
from induction_jax.measurements.ablation import make_ablation_probe
from induction_jax.measurements.behaviour import make_behaviour_probe
from induction_jax.measurements.blocks import make_blocks_probe
from induction_jax.measurements.circuits import make_circuits_probe
from induction_jax.measurements.curvature import Curvature, make_curvature
from induction_jax.measurements.density import make_density_probe
from induction_jax.measurements.evaluation_batches import HeldOut, make_draw
from induction_jax.measurements.markov import make_markov_probe
from induction_jax.measurements.measurement import Probe
from induction_jax.measurements.memory import make_memory_probe
from induction_jax.measurements.projection import make_projection_probe
from induction_jax.measurements.solve import find_largest
from induction_jax.measurements.spectra import make_spectra_probe
from induction_jax.model import Model
from induction_jax.types import Variable

__all__ = [
  "TRAIN_VARIABLES",
  "Curvature",
  "HeldOut",
  "Probe",
  "all_variables",
  "find_largest",
  "make_curvature",
  "make_draw",
  "make_probes",
]

TRAIN_VARIABLES = (
  Variable("train_loss", ("step",), "training loss, mean since last", "nats"),
  Variable("train_grad_norm", ("step",), "gradient norm, mean since last"),
)


def make_probes(
  config: Config, model: Model, curvature: Curvature
) -> tuple[Probe, ...]:
  """Every probe there is, cheap ones first; those of interval 0 never run."""
  return (
    make_behaviour_probe(config, model),
    make_markov_probe(config, model),
    make_memory_probe(config),
    make_circuits_probe(config),
    make_ablation_probe(config, model),
    make_projection_probe(config, curvature.partition.ids.size),
    make_spectra_probe(config, curvature),
    make_density_probe(config, curvature),
    make_blocks_probe(config, curvature),
  )


def all_variables(probes: tuple[Probe, ...]) -> tuple[Variable, ...]:
  """Declarations of everything a run's history may hold."""
  return sum((probe.variables for probe in probes), TRAIN_VARIABLES)
