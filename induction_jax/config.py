"""Typed, validated sections of a run's config.

`configs/base.py` holds every default; the dataclasses here have none. Each leaf
declares the values it allows beside its type, so a config is checked once, at
the door, and everything behind it can rely on it.
"""

import dataclasses
import difflib
import math
import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_type_hints

TOO_LARGE = 10**300  # whole numbers that no float holds are beyond it

# Settings that only some optimisers have.
OPTIM_LEAVES = {
  "optim.b1": ("adamw", "adam"),
  "optim.b2": ("adamw", "adam"),
  "optim.eps": ("adamw", "adam"),
  "optim.weight_decay": ("adamw",),
  "optim.momentum": ("sgd",),
}


class ConfigError(ValueError):
  """A config that cannot be run; the message is one line for the user."""


def _leaf(
  allowed: str, accepts: Callable[[Any], bool], below: float = math.inf
) -> Any:
  return dataclasses.field(
    metadata={"allowed": allowed, "accepts": accepts, "below": below}
  )


def _one_of(*choices: str) -> Any:
  return _leaf(f"one of {', '.join(choices)}", lambda x: x in choices)


def _at_least(low: int) -> Any:
  return _leaf(f"at least {low}", lambda x: x >= low, below=2**31)


def _positive() -> Any:
  return _leaf("a positive finite number", lambda x: 0 < x < math.inf)


def _non_negative() -> Any:
  return _leaf("a non-negative finite number", lambda x: 0 <= x < math.inf)


def _fraction() -> Any:
  return _leaf("in [0, 1)", lambda x: 0 <= x < 1)


def _boolean() -> Any:
  return _leaf("true or false", lambda x: True)


def _text() -> Any:
  return _leaf("text", lambda x: True)


def _check_range(section: str, name: str, low: int, high: int) -> None:
  if low > high:
    raise ConfigError(
      f"{section}.{name}_min must not exceed {section}.{name}_max, got "
      f"{low} > {high}"
    )


def _check_divides(section: str, micro_batch: int, batch: int) -> None:
  if micro_batch and batch % micro_batch:
    raise ConfigError(
      f"{section}.micro_batch_size must divide {section}.batch_size, got "
      f"micro_batch_size={micro_batch}, batch_size={batch}"
    )


@dataclasses.dataclass(frozen=True)
class TaskConfig:
  """The data-generating process (see induction_jax.tasks).

  Patterns and gaps are those of `repeats`, on which heads are judged whatever
  the task. `dirichlet` is the concentration of the rows of transition matrices
  (`markov`) or of the table of bigrams (`bigram_trigger`); `doubly_stochastic`
  is of `markov`, `triggers` and `fixed_triggers` are of `bigram_trigger`.
  """

  name: str = _one_of("repeats", "fixed_offset", "markov", "bigram_trigger")
  vocab_size: int = _at_least(3)
  seq_length: int = _at_least(4)
  pattern_min: int = _at_least(2)
  pattern_max: int = _at_least(2)
  gap_min: int = _at_least(0)
  gap_max: int = _at_least(0)
  dirichlet: float = _positive()
  doubly_stochastic: bool = _boolean()
  triggers: int = _at_least(1)
  fixed_triggers: bool = _boolean()

  def __post_init__(self) -> None:
    _check_range("task", "pattern", self.pattern_min, self.pattern_max)
    _check_range("task", "gap", self.gap_min, self.gap_max)
    if self.pattern_max >= self.vocab_size:
      raise ConfigError(
        "task.pattern_max must be below task.vocab_size (the pattern's tokens "
        "are distinct, and filler needs at least one more), got "
        f"pattern_max={self.pattern_max}, vocab_size={self.vocab_size}"
      )
    if 2 * self.pattern_min + self.gap_min > self.seq_length:
      raise ConfigError(
        "task.seq_length must hold two occurrences of the shortest pattern, "
        f"got seq_length={self.seq_length}, pattern_min={self.pattern_min}, "
        f"gap_min={self.gap_min}"
      )
    if self.name == "fixed_offset" and self.seq_length % 2:
      raise ConfigError(
        "task.seq_length must be even for fixed_offset, got "
        f"seq_length={self.seq_length}"
      )
    if self.name == "bigram_trigger" and self.triggers >= self.vocab_size:
      raise ConfigError(
        "task.triggers must be below task.vocab_size for bigram_trigger, got "
        f"triggers={self.triggers}, vocab_size={self.vocab_size}"
      )


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """The transformer (see induction_jax.model)."""

  n_layers: int = _at_least(1)
  n_heads: int = _at_least(1)
  d_model: int = _at_least(1)
  d_mlp: int = _at_least(0)
  position: str = _one_of("rotary", "shortformer", "learned")
  norm: str = _one_of("layernorm", "rmsnorm", "none")
  smeared_keys: bool = _boolean()

  def __post_init__(self) -> None:
    if self.d_model % self.n_heads:
      raise ConfigError(
        "model.n_heads must divide model.d_model, got "
        f"n_heads={self.n_heads}, d_model={self.d_model}"
      )
    if self.position == "rotary" and self.d_head % 2:
      raise ConfigError(
        "rotary positions need an even head width d_model / n_heads, got "
        f"{self.d_head}"
      )

  @property
  def d_head(self) -> int:
    return self.d_model // self.n_heads


@dataclasses.dataclass(frozen=True)
class OptimConfig:
  """The optimiser (see induction_jax.training.optim).

  b1, b2 and eps are those of Adam and AdamW, weight_decay is AdamW's and
  momentum SGD's; clip_norm 0 is no clipping.
  """

  name: str = _one_of("adamw", "adam", "sgd")
  learning_rate: float = _positive()
  schedule: str = _one_of("constant", "cosine")
  warmup_steps: int = _at_least(0)
  b1: float = _fraction()
  b2: float = _fraction()
  eps: float = _positive()
  weight_decay: float = _non_negative()
  momentum: float = _fraction()
  clip_norm: float = _non_negative()


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """The training stream and its length.

  A batch goes through the network `micro_batch_size` sequences at a time; 0
  chooses by the network's shape (induction_jax.training.step.plan_micro_batch).
  """

  num_steps: int = _at_least(1)
  batch_size: int = _at_least(1)
  micro_batch_size: int = _at_least(0)
  loss_tokens: str = _one_of("all", "predictable")

  def __post_init__(self) -> None:
    _check_divides("train", self.micro_batch_size, self.batch_size)


@dataclasses.dataclass(frozen=True)
class InterventionConfig:
  """What training is kept from, or made to do (induction_jax.interventions).

  `clamp` and `freeze` are lists separated by commas: of `kind layer.head`, and
  of parameters or blocks; a * stands for anything. Their names are checked
  against the network as it is built. Updates are projected with the products
  and the batch of section spectra, whatever `spectra.eigen_interval`.
  """

  clamp: str = _text()
  freeze: str = _text()
  project: str = _one_of("none", "off", "onto")
  project_top_k: int = _at_least(1)
  project_interval: int = _at_least(1)


@dataclasses.dataclass(frozen=True)
class BehaviourConfig:
  """Losses, accuracies and head scores; standard errors need two sequences."""

  interval: int = _at_least(1)
  batch_size: int = _at_least(2)


@dataclasses.dataclass(frozen=True)
class CircuitsConfig:
  """QK and OV circuits, composition; an interval of 0 is never.

  `top_k` is how high a token must rank to count as copied or matched. With
  rotary positions QK is also read at `rotary_offset` back, unless that is 0.
  """

  interval: int = _at_least(0)
  top_k: int = _at_least(1)
  rotary_offset: int = _at_least(0)


@dataclasses.dataclass(frozen=True)
class AblationConfig:
  """Heads changed, and paths; an interval of 0 is never.

  On the first `batch_size` sequences of the held-out batch, or all of it;
  with every pair of heads in different layers if `pairs`.
  """

  interval: int = _at_least(0)
  batch_size: int = _at_least(2)
  pairs: bool = _boolean()


@dataclasses.dataclass(frozen=True)
class SpectraConfig:
  """Hessian spectra; never if `eigen_interval` is 0.

  Every `adaptive` steps, unless that is 0, while behaviour changes (see
  induction_jax.transition.trigger).
  Without the preconditioned Hessian, of which the top alone is looked for, if
  `preconditioned_top_k` is 0, without the Gauss-Newton split if
  `gauss_newton_top_k` is. `memory_gib` is what the Hessian's linear map, or one
  micro-batch, may take, and the same again for Lanczos' basis;
  `micro_batch_size` 0 chooses the largest that fits, and `max_basis` 0 all of
  max_order if it fits, else a restart. `exact` is the dense matrix in place of
  Lanczos and of random probes, for small networks.
  """

  eigen_interval: int = _at_least(0)
  adaptive: int = _at_least(0)
  track_top_k_eigenvalues: int = _at_least(1)
  batch_size: int = _at_least(1)
  micro_batch_size: int = _at_least(0)
  memory_gib: float = _positive()
  max_order: int = _at_least(2)
  max_basis: int = _at_least(0)
  exact: bool = _boolean()
  tolerance: float = _positive()
  warm_start: bool = _boolean()
  preconditioned_top_k: int = _at_least(0)
  gauss_newton_top_k: int = _at_least(0)
  keep_eigenvectors: bool = _boolean()

  def __post_init__(self) -> None:
    if self.adaptive > self.eigen_interval:
      raise ConfigError(
        "spectra.adaptive must be at most spectra.eigen_interval (it is the "
        f"denser of the two), got adaptive={self.adaptive}, "
        f"eigen_interval={self.eigen_interval}"
      )
    pairs = self.most_pairs
    if self.max_order < pairs:
      raise ConfigError(
        "spectra.max_order must be at least the number of eigenpairs wanted at "
        "once (both ends come from one basis), got "
        f"max_order={self.max_order}, eigenpairs={pairs}"
      )
    if self.max_basis and self.max_basis < pairs + 2:
      raise ConfigError(
        "spectra.max_basis must hold the eigenpairs wanted at once, of both "
        f"ends, and two more rows, got max_basis={self.max_basis}, "
        f"eigenpairs={pairs}"
      )
    if self.exact and self.warm_start:
      raise ConfigError(
        "spectra.warm_start is of Lanczos, which spectra.exact replaces"
      )
    _check_divides("spectra", self.micro_batch_size, self.batch_size)

  @property
  def most_pairs(self) -> int:
    """The most eigenpairs that any one Lanczos of a measurement looks for."""
    at_both_ends = max(self.track_top_k_eigenvalues, self.gauss_newton_top_k)
    return max(2 * at_both_ends, self.preconditioned_top_k)


@dataclasses.dataclass(frozen=True)
class DensityConfig:
  """The whole spectrum; an interval of 0 is never.

  By quadrature, `order` products for each of the `probes`; trace and norm by
  `trace_probes` of one product each, beside the tracked eigenvalues. From all
  eigenvalues if `spectra.exact`.
  """

  interval: int = _at_least(0)
  probes: int = _at_least(2)
  order: int = _at_least(2)
  trace_probes: int = _at_least(2)


@dataclasses.dataclass(frozen=True)
class BlocksConfig:
  """Curvature by blocks of parameters; an interval of 0 is never."""

  interval: int = _at_least(0)
  probes: int = _at_least(2)
  max_order: int = _at_least(2)


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
  """When to save: powers of two up to `interval`, then every `interval`."""

  interval: int = _at_least(1)
  log_spaced: bool = _boolean()


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """How many devices share a batch, seeds, and vectors (see devices.mesh).

  `data` of them share each batch, in training and in measuring, and `params`
  the basis of Lanczos along its P. `seeds` is of sweeps: how many such sets of
  devices share the seeds, 0 for as many as there are.
  """

  data: int = _at_least(1)
  seeds: int = _at_least(0)
  params: int = _at_least(1)


@dataclasses.dataclass(frozen=True)
class ReportConfig:
  """The figures."""

  format: str = _one_of("png", "svg", "pdf")


@dataclasses.dataclass(frozen=True)
class Config:
  """A whole run: every section, checked one by one and against each other."""

  task: TaskConfig
  model: ModelConfig
  optim: OptimConfig
  train: TrainConfig
  intervention: InterventionConfig
  behaviour: BehaviourConfig
  circuits: CircuitsConfig
  ablation: AblationConfig
  spectra: SpectraConfig
  density: DensityConfig
  blocks: BlocksConfig
  checkpoint: CheckpointConfig
  mesh: MeshConfig
  report: ReportConfig
  seed: int = _leaf("in [0, 2^32)", lambda x: 0 <= x < 2**32)

  def __post_init__(self) -> None:
    if self.optim.warmup_steps >= self.train.num_steps:
      raise ConfigError(
        "optim.warmup_steps must be below train.num_steps, got "
        f"warmup_steps={self.optim.warmup_steps}, "
        f"num_steps={self.train.num_steps}"
      )
    change, c = self.intervention, self.spectra
    most = min(c.max_order, c.max_basis - 2) if c.max_basis else c.max_order
    if change.project != "none" and change.project_top_k > most:
      raise ConfigError(
        "intervention.project_top_k must be at most spectra.max_order, and two "
        "less than spectra.max_basis if that is set, got "
        f"project_top_k={change.project_top_k}, max_order={c.max_order}, "
        f"max_basis={c.max_basis}"
      )
    if self.circuits.top_k > self.task.vocab_size:
      raise ConfigError(
        "circuits.top_k must not exceed task.vocab_size, got "
        f"top_k={self.circuits.top_k}, vocab_size={self.task.vocab_size}"
      )
    self._check_mesh()

  def _check_mesh(self) -> None:
    for section in ("train", "behaviour", "spectra"):
      for leaf in ("batch_size", "micro_batch_size"):
        size = getattr(getattr(self, section), leaf, 0)
        if size % self.mesh.data:
          raise ConfigError(
            f"mesh.data must divide {section}.{leaf} (each device takes as "
            f"many examples), got data={self.mesh.data}, {leaf}={size}"
          )
    if self.mesh.params > 1 and self.spectra.exact:
      raise ConfigError(
        "mesh.params shares the basis of Lanczos, which spectra.exact replaces"
      )


def make_config(values: Mapping[str, Any]) -> Config:
  """Builds a checked Config from nested mappings (config.to_dict(), or JSON).

  Raises:
    ConfigError: for an unknown or missing key, a wrong type or a value out of
      range; the message names the leaf, what is allowed and what it got.
  """
  return _make_section(Config, values, prefix="")


def make_model_config(**values: Any) -> ModelConfig:
  """A checked section `model`, of a network that no run has trained."""
  section: ModelConfig = _make_section(ModelConfig, values, prefix="model.")
  return section


def to_dict(config: Config) -> dict[str, Any]:
  """The config as nested plain dicts, ready for JSON."""
  return dataclasses.asdict(config)


def check_leaf_name(name: str) -> None:
  """Raises ConfigError unless `section.leaf` (or `seed`) is in a config."""
  known = _leaf_names(Config)
  if name not in known:
    raise ConfigError(_unknown_key(name, known))


def check_optim_leaf(name: str, config: Config) -> None:
  """Raises ConfigError if the run's optimiser has no use for `optim.leaf`."""
  users = OPTIM_LEAVES.get(name, (config.optim.name,))
  if config.optim.name not in users:
    raise ConfigError(
      f"{name} is a setting of {' and '.join(users)}, and optim.name is "
      f"{config.optim.name}"
    )


def differing_leaves(a: Config, b: Config) -> list[str]:
  """Names of the leaves in which two configs differ, as `section.leaf`."""
  flat_a, flat_b = _flatten(to_dict(a)), _flatten(to_dict(b))
  return [name for name in flat_a if flat_a[name] != flat_b[name]]


def _make_section(section: Any, values: Any, prefix: str) -> Any:
  if not isinstance(values, Mapping):
    raise ConfigError(f"{prefix[:-1]} must be a section, got {shown(values)}")
  types = get_type_hints(section)
  for name in values:
    if name not in types:
      known = [prefix + known_name for known_name in types]
      raise ConfigError(_unknown_key(prefix + str(name)[:80], known))
  checked = {}
  for field in dataclasses.fields(section):
    name = prefix + field.name
    if field.name not in values:
      raise ConfigError(f"missing config key {name}")
    kind = types[field.name]
    checked[field.name] = (
      _make_section(kind, values[field.name], name + ".")
      if dataclasses.is_dataclass(kind)
      else _check_leaf(name, kind, field, values[field.name])
    )
  return section(**checked)


def _check_leaf(
  name: str, kind: type, field: dataclasses.Field, value: Any
) -> Any:
  is_int = isinstance(value, int) and not isinstance(value, bool)
  if kind is float and is_int:
    value = float(value) if abs(value) < TOO_LARGE else math.inf
  if not isinstance(value, kind) or (kind is int and not is_int):
    raise ConfigError(f"{name} must be {kind.__name__}, got {shown(value)}")
  if kind is int and value >= field.metadata["below"]:
    raise ConfigError(f"{name} must be below 2^31, got {shown(value)}")
  if not field.metadata["accepts"](value):
    raise ConfigError(
      f"{name} must be {field.metadata['allowed']}, got {shown(value)}"
    )
  return value


def shown(value: Any) -> str:
  """A value as a message quotes it: on one line, and not all of it."""
  try:
    return reprlib.repr(value)
  except ValueError:  # Python writes no number of more than 4300 digits
    return "a number too large to write down"


def did_you_mean(name: str, known: Sequence[str]) -> str:
  """`; did you mean …?` with the known name closest to this, or nothing."""
  close = difflib.get_close_matches(name, known, n=1)
  return f"; did you mean {close[0]}?" if close else ""


def _unknown_key(name: str, known: Sequence[str]) -> str:
  return f"unknown config key {name}{did_you_mean(name, known)}"


def _leaf_names(section: Any, prefix: str = "") -> list[str]:
  names = []
  for name, kind in get_type_hints(section).items():
    if dataclasses.is_dataclass(kind):
      names += _leaf_names(kind, f"{prefix}{name}.")
    else:
      names.append(prefix + name)
  return names


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  flat = {}
  for name, value in values.items():
    if isinstance(value, Mapping):
      flat.update(_flatten(value, f"{prefix}{name}."))
    else:
      flat[prefix + name] = value
  return flat
