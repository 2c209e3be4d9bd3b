"""The settings of a run, by section, and the checks between sections.

Each setting stands once, here or in induction_jax.config.training: name, type,
allowed values, default, meaning. configs/base.py, `--describe` and the checks
are made from these declarations.
"""

from dataclasses import dataclass

from induction_jax.config.leaves import (
  at_least,
  boolean,
  leaf,
  one_of,
  positive,
  require,
  require_divides,
)
from induction_jax.config.training import (
  InterventionConfig,
  ModelConfig,
  OptimConfig,
  TaskConfig,
  TrainConfig,
)


@dataclass(frozen=True)
class BehaviourConfig:
  """Losses, accuracies and head scores on the evaluation batch."""

  interval: int = at_least(1, default=20, doc="Steps between measurements.")
  batch_size: int = at_least(
    2, default=64, doc="Sequences in the evaluation batch, held out."
  )


@dataclass(frozen=True)
class CircuitsConfig:
  """QK and OV circuits and composition, from the weights."""

  interval: int = at_least(
    0, default=100, doc="Steps between measurements; 0: never."
  )
  top_k: int = at_least(
    1,
    default=1,
    doc="A token counts as copied or matched if its own entry is among the "
    "top_k highest of its row.",
  )
  rotary_offset: int = at_least(
    0,
    default=16,
    doc="With rotary positions, also evaluate QK at this distance; 0: not.",
  )


@dataclass(frozen=True)
class AblationConfig:
  """Loss with heads or paths ablated."""

  interval: int = at_least(
    0, default=100, doc="Steps between measurements; 0: never."
  )
  batch_size: int = at_least(
    2, default=16, doc="Sequences of the evaluation batch, at most all of them."
  )
  pairs: bool = boolean(
    default=True, doc="Also ablate every pair of heads in different layers."
  )


@dataclass(frozen=True)
class SpectraConfig:
  """Extreme eigenpairs of the loss Hessian."""

  eigen_interval: int = at_least(
    0, default=100, doc="Steps between measurements; 0: never."
  )
  adaptive: int = at_least(
    0,
    default=0,
    doc="Steps between measurements, at most eigen_interval, while a CUSUM "
    "alarm on the best previous-token and prefix-matching heads is on (see "
    "induction_jax.transition.trigger: one false alarm in about 1000 "
    "measurements); 0: no alarm. Not in a sweep.",
  )
  track_top_k_eigenvalues: int = at_least(
    1, default=10, doc="Eigenpairs at each end of the spectrum."
  )
  batch_size: int = at_least(
    1, default=64, doc="Sequences in the batch of the Hessian, held out."
  )
  micro_batch_size: int = at_least(
    0,
    default=0,
    doc="Sequences in a micro-batch of Hessian-vector products. 0: keep the "
    "linearised gradient of the batch if it fits memory_gib (on a CPU: the "
    "cache), else the largest micro-batch that fits. batch_size: always keep "
    "it. results.nc records the choice.",
  )
  memory_gib: float = positive(
    default=2.0,
    doc="GiB for the linearised gradient or one micro-batch, and as much again "
    "for the Lanczos basis.",
  )
  max_order: int = at_least(
    2, default=100, doc="Most Hessian-vector products of one Lanczos run."
  )
  max_basis: int = at_least(
    0,
    default=0,
    doc="Rows of the Lanczos basis after which it restarts; 0: max_order, or "
    "as many as fit memory_gib.",
  )
  exact: bool = boolean(
    default=False,
    doc="Use the dense Hessian instead of Lanczos and of density's random "
    "vectors: every eigenvalue, for at most 10,000 parameters.",
  )
  tolerance: float = positive(
    default=1e-2,
    doc="An eigenpair is converged if its residual bound is at most tolerance "
    "times the absolute eigenvalue.",
  )
  preconditioned_top_k: int = at_least(
    0,
    default=1,
    doc="Largest eigenpairs of the preconditioned Hessian; 0: none.",
  )
  gauss_newton_top_k: int = at_least(
    0,
    default=0,
    doc="Eigenpairs at each end of the Hessian's Gauss-Newton and functional "
    "parts; 0: none.",
  )
  keep_eigenvectors: bool = boolean(
    default=False,
    doc="Write the eigenvectors of both ends to eigenvectors/<step>.npz "
    "(measure writes to eigenvectors/remeasured): 8 * k * P bytes for k pairs "
    "at each end and P parameters.",
  )

  def __post_init__(self) -> None:
    require(
      self.adaptive <= self.eigen_interval,
      "spectra.adaptive must be at most spectra.eigen_interval (it is the "
      "denser of the two)",
      adaptive=self.adaptive,
      eigen_interval=self.eigen_interval,
    )
    require(
      self.max_order >= self.most_pairs,
      "spectra.max_order must be at least the number of eigenpairs wanted at "
      "once (both ends come from one basis)",
      max_order=self.max_order,
      eigenpairs=self.most_pairs,
    )
    require(
      not self.max_basis or self.max_basis >= self.most_pairs + 2,
      "spectra.max_basis must exceed the number of eigenpairs wanted at once "
      "(both ends come from one basis) by at least 2",
      max_basis=self.max_basis,
      eigenpairs=self.most_pairs,
    )
    require_divides("spectra", self.micro_batch_size, self.batch_size)

  @property
  def most_pairs(self) -> int:
    """The most eigenpairs that one Lanczos run of a measurement finds."""
    at_both_ends = max(self.track_top_k_eigenvalues, self.gauss_newton_top_k)
    return max(2 * at_both_ends, self.preconditioned_top_k)


@dataclass(frozen=True)
class DensityConfig:
  """The spectral density, by stochastic Lanczos quadrature."""

  interval: int = at_least(
    0, default=0, doc="Steps between measurements; 0: never."
  )
  probes: int = at_least(2, default=8, doc="Random vectors of the quadrature.")
  order: int = at_least(
    2, default=60, doc="Hessian-vector products for each of them."
  )
  trace_probes: int = at_least(
    2,
    default=32,
    doc="Random vectors, of one product each, for the trace and the Frobenius "
    "norm without the tracked eigenpairs, which are added exactly.",
  )


@dataclass(frozen=True)
class BlocksConfig:
  """The Hessian by blocks of parameters: circuits, embeddings, norms."""

  interval: int = at_least(
    0, default=0, doc="Steps between measurements; 0: never."
  )
  probes: int = at_least(
    2, default=4, doc="Random vectors in each block, for the blocks' norms."
  )
  max_order: int = at_least(
    2,
    default=40,
    doc="Most Hessian-vector products for the extreme eigenvalues of the "
    "diagonal blocks.",
  )


@dataclass(frozen=True)
class ParticipationConfig:
  """The participation ratio of the Hessian's top eigenvectors."""

  interval: int = at_least(
    0, default=0, doc="Steps between measurements; 0: never."
  )


@dataclass(frozen=True)
class CheckpointConfig:
  """When the training state is saved."""

  interval: int = at_least(1, default=1000, doc="Steps between checkpoints.")
  log_spaced: bool = boolean(
    default=True, doc="Also save at powers of two up to the interval."
  )


@dataclass(frozen=True)
class MeshConfig:
  """Devices (see induction_jax.devices.mesh)."""

  data: int = at_least(
    1, default=1, doc="Devices that share each batch, of data and of Hessians."
  )
  seeds: int = at_least(
    0,
    default=0,
    doc="In a sweep, sets of devices that share the seeds; 0: as many as "
    "there are.",
  )
  params: int = at_least(
    1,
    default=1,
    doc="Devices that share the Lanczos basis along the parameters. They are "
    "the devices of data where one number divides the other.",
  )


@dataclass(frozen=True)
class ReportConfig:
  """The figures."""

  format: str = one_of(
    "png", "svg", "pdf", default="png", doc="File format of the figures."
  )


@dataclass(frozen=True)
class Config:
  """All settings of a run, checked one by one and against each other."""

  seed: int = leaf(
    "in [0, 2^32)",
    lambda x: 0 <= x < 2**32,
    default=0,
    doc="Seed of the initial weights and of everything else that is drawn.",
  )
  task: TaskConfig = TaskConfig()
  model: ModelConfig = ModelConfig()
  optim: OptimConfig = OptimConfig()
  train: TrainConfig = TrainConfig()
  intervention: InterventionConfig = InterventionConfig()
  behaviour: BehaviourConfig = BehaviourConfig()
  circuits: CircuitsConfig = CircuitsConfig()
  ablation: AblationConfig = AblationConfig()
  spectra: SpectraConfig = SpectraConfig()
  density: DensityConfig = DensityConfig()
  blocks: BlocksConfig = BlocksConfig()
  participation: ParticipationConfig = ParticipationConfig()
  checkpoint: CheckpointConfig = CheckpointConfig()
  mesh: MeshConfig = MeshConfig()
  report: ReportConfig = ReportConfig()

  def __post_init__(self) -> None:
    require(
      self.optim.warmup_steps < self.train.num_steps,
      "optim.warmup_steps must be below train.num_steps",
      warmup_steps=self.optim.warmup_steps,
      num_steps=self.train.num_steps,
    )
    require(
      self.circuits.top_k <= self.task.vocab_size,
      "circuits.top_k must not exceed task.vocab_size",
      top_k=self.circuits.top_k,
      vocab_size=self.task.vocab_size,
    )
    self._check_projection()
    self._check_mesh()

  def _check_projection(self) -> None:
    change, c = self.intervention, self.spectra
    most = min(c.max_order, c.max_basis - 2) if c.max_basis else c.max_order
    require(
      change.project == "none" or change.project_top_k <= most,
      "intervention.project_top_k must be at most spectra.max_order, and at "
      "most spectra.max_basis - 2 if that is set",
      project_top_k=change.project_top_k,
      max_order=c.max_order,
      max_basis=c.max_basis,
    )

  def _check_mesh(self) -> None:
    for section in ("train", "behaviour", "spectra"):
      for name in ("batch_size", "micro_batch_size"):
        size = getattr(getattr(self, section), name, 0)
        require(
          size % self.mesh.data == 0,
          f"mesh.data must divide {section}.{name} (each device takes as many "
          "examples)",
          data=self.mesh.data,
          **{name: size},
        )
    require(
      self.mesh.params == 1 or not self.spectra.exact,
      "mesh.params shares the Lanczos basis, which spectra.exact does without: "
      "set mesh.params to 1",
    )
