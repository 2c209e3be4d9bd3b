"""The settings of a run: their declaration, their checks and their files."""

from induction_jax.config.files import config_names, load_config
from induction_jax.config.leaves import ConfigError, did_you_mean, shown
from induction_jax.config.reading import (
  change,
  check_leaf_name,
  differing_leaves,
  leaves,
  make_config,
  make_model_config,
  parse_leaves,
  read_config,
  to_dict,
  to_json,
  value_of,
)
from induction_jax.config.sections import Config, MeshConfig, SpectraConfig
from induction_jax.config.training import (
  TASK_NAMES,
  ModelConfig,
  OptimConfig,
  TaskConfig,
  TrainConfig,
)

__all__ = [
  "TASK_NAMES",
  "Config",
  "ConfigError",
  "MeshConfig",
  "ModelConfig",
  "OptimConfig",
  "SpectraConfig",
  "TaskConfig",
  "TrainConfig",
  "change",
  "check_leaf_name",
  "config_names",
  "did_you_mean",
  "differing_leaves",
  "leaves",
  "load_config",
  "make_config",
  "make_model_config",
  "parse_leaves",
  "read_config",
  "shown",
  "to_dict",
  "to_json",
  "value_of",
]
