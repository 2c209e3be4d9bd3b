"""The settings of a run, by section, and the checks between them.

Each setting stands here once: name, type, allowed values, default, meaning.
configs/base.py, `--describe` and the checks are made from these declarations.
"""

from dataclasses import dataclass

from induction_jax.config.leaves import (
  at_least,
  boolean,
  fraction,
  leaf,
  non_negative,
  one_of,
  positive,
  require,
  text,
)


def _require_range(section: str, name: str, low: int, high: int) -> None:
  require(
    low <= high,
    f"{section}.{name}_min must not exceed {section}.{name}_max",
    **{f"{name}_min": low, f"{name}_max": high},
  )


def _require_divides(section: str, micro_batch: int, batch: int) -> None:
  require(
    not micro_batch or batch % micro_batch == 0,
    f"{section}.micro_batch_size must divide {section}.batch_size",
    micro_batch_size=micro_batch,
    batch_size=batch,
  )


@dataclass(frozen=True)
class TaskConfig:
  """The sequences to learn from (see induction_jax.tasks)."""

  name: str = one_of(
    "repeats",
    "fixed_offset",
    "markov",
    "bigram_trigger",
    default="repeats",
    doc="How sequences are drawn. Heads are judged on repeats in every case.",
  )
  vocab_size: int = at_least(3, default=50, doc="Number of distinct tokens.")
  seq_length: int = at_least(4, default=256, doc="Tokens in a sequence.")
  pattern_min: int = at_least(
    2, default=4, doc="repeats: tokens in the shortest pattern."
  )
  pattern_max: int = at_least(
    2, default=32, doc="repeats: tokens in the longest pattern."
  )
  gap_min: int = at_least(
    0, default=0, doc="repeats: fewest random tokens between occurrences."
  )
  gap_max: int = at_least(
    0,
    default=32,
    doc="repeats: most random tokens between occurrences. Gaps are random so "
    "that attention at a fixed distance cannot solve the task.",
  )
  dirichlet: float = positive(
    default=1.0,
    doc="Concentration of the rows of the transition matrices (markov) or of "
    "the table of bigrams (bigram_trigger).",
  )
  doubly_stochastic: bool = boolean(
    default=False,
    doc="markov: also scale the columns of transition matrices to sum to 1, "
    "so that unigrams predict nothing.",
  )
  triggers: int = at_least(
    1, default=5, doc="bigram_trigger: trigger tokens in each sequence."
  )
  fixed_triggers: bool = boolean(
    default=False,
    doc="bigram_trigger: use the most frequent tokens as triggers, instead of "
    "drawing triggers for every sequence.",
  )

  def __post_init__(self) -> None:
    _require_range("task", "pattern", self.pattern_min, self.pattern_max)
    _require_range("task", "gap", self.gap_min, self.gap_max)
    require(
      self.pattern_max < self.vocab_size,
      "task.pattern_max must be below task.vocab_size (the tokens of a pattern "
      "are distinct, and filler needs at least one more)",
      pattern_max=self.pattern_max,
      vocab_size=self.vocab_size,
    )
    require(
      2 * self.pattern_min + self.gap_min <= self.seq_length,
      "task.seq_length must hold two occurrences of the shortest pattern",
      seq_length=self.seq_length,
      pattern_min=self.pattern_min,
      gap_min=self.gap_min,
    )
    require(
      self.name != "fixed_offset" or self.seq_length % 2 == 0,
      "task.seq_length must be even for fixed_offset",
      seq_length=self.seq_length,
    )
    require(
      self.name != "bigram_trigger" or self.triggers < self.vocab_size,
      "task.triggers must be below task.vocab_size for bigram_trigger",
      triggers=self.triggers,
      vocab_size=self.vocab_size,
    )


@dataclass(frozen=True)
class ModelConfig:
  """The transformer (see induction_jax.model)."""

  n_layers: int = at_least(1, default=2, doc="Number of layers.")
  n_heads: int = at_least(1, default=8, doc="Attention heads in a layer.")
  d_model: int = at_least(
    1, default=128, doc="Width of the residual stream; n_heads divides it."
  )
  d_mlp: int = at_least(
    0, default=0, doc="Width of each layer's MLP; 0: attention only."
  )
  position: str = one_of(
    "rotary",
    "shortformer",
    "learned",
    default="rotary",
    doc="Position embedding: rotary; shortformer, added to the input of "
    "queries and keys; or learned, added to the residual stream.",
  )
  norm: str = one_of(
    "layernorm",
    "rmsnorm",
    "none",
    default="layernorm",
    doc="Normalisation before each sublayer and before the unembedding.",
  )
  smeared_keys: bool = boolean(
    default=False,
    doc="Mix each key with the key before it (Olsson et al. 2022).",
  )

  def __post_init__(self) -> None:
    require(
      self.d_model % self.n_heads == 0,
      "model.n_heads must divide model.d_model",
      n_heads=self.n_heads,
      d_model=self.d_model,
    )
    require(
      self.position != "rotary" or self.d_head % 2 == 0,
      "rotary positions need an even head width d_model / n_heads",
      d_head=self.d_head,
    )

  @property
  def d_head(self) -> int:
    """Width of a head, K."""
    return self.d_model // self.n_heads


@dataclass(frozen=True)
class OptimConfig:
  """The optimiser and its schedule (see induction_jax.training.optim)."""

  name: str = one_of(
    "adamw", "adam", "sgd", default="adamw", doc="The optimiser."
  )
  learning_rate: float = positive(
    default=1e-3, doc="Learning rate after the warm-up."
  )
  schedule: str = one_of(
    "constant",
    "cosine",
    default="constant",
    doc="Learning rate after the warm-up: constant, or cosine decay to 0 at "
    "train.num_steps.",
  )
  warmup_steps: int = at_least(
    0, default=0, doc="Steps of linear warm-up from 0; 0: no warm-up."
  )
  b1: float = fraction(
    default=0.9, doc="adamw, adam: decay rate of the first moment."
  )
  b2: float = fraction(
    default=0.999, doc="adamw, adam: decay rate of the second moment."
  )
  eps: float = positive(
    default=1e-8, doc="adamw, adam: added to the denominator."
  )
  weight_decay: float = non_negative(
    default=0.01, doc="adamw: decoupled weight decay."
  )
  momentum: float = fraction(default=0.9, doc="sgd: momentum.")
  clip_norm: float = non_negative(
    default=0.0, doc="Largest global norm of a gradient; 0: no clipping."
  )


# Settings that only some optimisers have.
OPTIM_LEAVES = {
  "optim.b1": ("adamw", "adam"),
  "optim.b2": ("adamw", "adam"),
  "optim.eps": ("adamw", "adam"),
  "optim.weight_decay": ("adamw",),
  "optim.momentum": ("sgd",),
}


@dataclass(frozen=True)
class TrainConfig:
  """The training batches and the length of training."""

  num_steps: int = at_least(1, default=20_000, doc="Number of updates.")
  batch_size: int = at_least(1, default=64, doc="Sequences in a batch.")
  micro_batch_size: int = at_least(
    0,
    default=0,
    doc="Sequences that go through the network together; the gradient is the "
    "mean over the tokens of the batch. 0: on a CPU as many as keep the "
    "attention scores of a layer within 8 MiB, elsewhere the whole batch.",
  )
  loss_tokens: str = one_of(
    "all",
    "predictable",
    default="all",
    doc="Tokens in the training loss: all, or those that an earlier occurrence "
    "in the sequence determines.",
  )

  def __post_init__(self) -> None:
    _require_divides("train", self.micro_batch_size, self.batch_size)


@dataclass(frozen=True)
class InterventionConfig:
  """Changes made throughout training (see induction_jax.interventions)."""

  clamp: str = text(
    default="",
    doc="Heads whose pattern (previous_token, induction, no_previous_token, "
    "no_other_token) or output (zero, mean) is given, as `kind layer.head`, "
    "separated by commas, * for any: `previous_token 0.0, zero 1.*`.",
  )
  freeze: str = text(
    default="",
    doc="Parameters or circuits that keep their initial value, separated by "
    "commas, * for any: `w_e, qk 0.*`.",
  )
  project: str = one_of(
    "none",
    "off",
    "onto",
    default="none",
    doc="Project every update off or onto the top eigenspace of the Hessian, "
    "computed on the batch of spectra whatever spectra.eigen_interval is.",
  )
  project_top_k: int = at_least(
    1, default=10, doc="Dimension of that eigenspace."
  )
  project_interval: int = at_least(
    1, default=10, doc="Updates after which that eigenspace is recomputed."
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
  warm_start: bool = boolean(
    default=False,
    doc="Start Lanczos at the last eigenvectors while they overlap by 0.6 or "
    "more, and at random every tenth time.",
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
    require(
      not (self.exact and self.warm_start),
      "spectra.warm_start applies to Lanczos, which spectra.exact replaces",
    )
    _require_divides("spectra", self.micro_batch_size, self.batch_size)

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
