"""The settings of training: task, network, optimiser, batches, interventions.

See induction_jax.config.sections for the other sections.
"""

from dataclasses import dataclass

from induction_jax.config.leaves import (
  Choices,
  at_least,
  boolean,
  fraction,
  leaf,
  non_negative,
  one_of,
  positive,
  require,
  require_divides,
  text,
)

# Each has a sampler in induction_jax.tasks.TASKS, whose `register` adds others.
TASK_NAMES = Choices(("repeats", "fixed_offset", "markov", "bigram_trigger"))


@dataclass(frozen=True)
class TaskConfig:
  """The sequences to learn from (see induction_jax.tasks)."""

  name: str = leaf(
    TASK_NAMES,
    lambda x: x in TASK_NAMES,
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
  """The optimiser and its schedule (see induction_jax.training.optimizer)."""

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
    require_divides("train", self.micro_batch_size, self.batch_size)


@dataclass(frozen=True)
class InterventionConfig:
  """Changes made throughout training (see induction_jax.interventions)."""

  clamp: str = text(
    default="",
    doc="Heads whose pattern (previous_token, induction, no_previous_token, "
    "no_other_token) or output (zero, mean) is given, as `kind head`, "
    "separated by commas, * for any: `previous_token L0H0, zero L1H*`.",
  )
  freeze: str = text(
    default="",
    doc="Parameters or circuits that keep their initial value, separated by "
    "commas, * for any: `w_e, qk L0H*`.",
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


def _require_range(section: str, name: str, low: int, high: int) -> None:
  require(
    low <= high,
    f"{section}.{name}_min must not exceed {section}.{name}_max",
    **{f"{name}_min": low, f"{name}_max": high},
  )
