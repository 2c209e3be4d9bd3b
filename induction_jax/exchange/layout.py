"""Layouts of published weights: what they define, and helpers for them."""

import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from induction_jax.config import ConfigError, ModelConfig
from induction_jax.model import OWN_CONVENTION, Convention
from induction_jax.storage.tensors import Tensors

Settings = Mapping[str, Any]  # the JSON beside a file of weights


class Architecture(NamedTuple):
  """A network without its parameters: the arguments of model.make_model."""

  config: ModelConfig
  vocab_size: int
  seq_length: int
  convention: Convention = OWN_CONVENTION


class Layout(NamedTuple):
  """The file format of one family of models.

  Attributes:
    prefixes: optional prefixes of tensor names, removed before anything else.
    ignored: names of tensors that may exist and are redundant, with {} for the
      layer.
    describe: settings -> Architecture; KeyError if a setting is missing.
    shapes: (settings, Architecture) -> the shape of every tensor, by name.
    convert: (Architecture, tensors) -> parameters, named as in
      induction_jax.model.
  """

  prefixes: tuple[str, ...]
  ignored: tuple[str, ...]
  describe: Callable[[Settings], Architecture]
  shapes: Callable[[Settings, Architecture], dict[str, tuple[int, ...]]]
  convert: Callable[[Architecture, Tensors], Tensors]


def per_layer(
  architecture: Architecture,
  template: str,
  shapes: Mapping[str, tuple[int, ...]],
) -> dict[str, tuple[int, ...]]:
  """Shapes of the tensors of all layers; `template` has {} for the layer."""
  return {
    template.format(layer) + name: shape
    for layer in range(architecture.config.n_layers)
    for name, shape in shapes.items()
  }


def stack_layers(
  architecture: Architecture, tensors: Tensors, template: str, name: str
) -> np.ndarray:
  """The tensors of one name in all layers, stacked: [L, ...]."""
  layers = range(architecture.config.n_layers)
  return np.stack([tensors[template.format(layer) + name] for layer in layers])


def split_heads(architecture: Architecture, joined: np.ndarray) -> np.ndarray:
  """Weights [L, D, H K] -> [L, H, D, K], or biases [L, H K] -> [L, H, K]."""
  config = architecture.config
  split = joined.reshape(*joined.shape[:-1], config.n_heads, config.d_head)
  return np.swapaxes(split, 1, 2) if joined.ndim == 3 else split


def join_heads(architecture: Architecture, joined: np.ndarray) -> np.ndarray:
  """Output weights [L, H K, D] -> [L, H, K, D]."""
  config = architecture.config
  shape = (config.n_layers, config.n_heads, config.d_head, config.d_model)
  return joined.reshape(shape)


def require(settings: Settings, **allowed: Any) -> None:
  """Checks settings of which only one value is implemented.

  A setting that is missing is accepted.

  Raises:
    ConfigError: if a setting has another value.
  """
  for name, value in allowed.items():
    if settings.get(name, value) != value:
      raise ConfigError(
        f"{name} must be {value!r} (no other value is implemented), got "
        f"{settings[name]!r}"
      )


def count(settings: Settings, name: str) -> int:
  """A setting that is a positive integer.

  Raises:
    KeyError: if it is missing.
    ConfigError: if it is not a positive integer.
  """
  value = settings[name]
  if isinstance(value, bool) or not isinstance(value, int) or value < 1:
    raise ConfigError(f"{name} must be a positive integer, got {value!r}")
  return value


def positive(settings: Settings, name: str, default: float) -> float:
  """A setting that is a positive number, with the type it has in the file.

  Raises:
    ConfigError: if it is not a finite number above 0.
  """
  value = settings.get(name, default)
  number = isinstance(value, int | float) and not isinstance(value, bool)
  # Integers too large for a float, such as 10**400, are refused as well.
  if not number or not 0 < value <= sys.float_info.max:
    raise ConfigError(f"{name} must be a number above 0, got {value!r}")
  return value


def flag(settings: Settings, name: str, default: bool) -> bool:
  """A setting that is true or false.

  Raises:
    ConfigError: if it is neither.
  """
  value = settings.get(name, default)
  if not isinstance(value, bool):
    raise ConfigError(f"{name} must be true or false, got {value!r}")
  return value


def check_rotary_width(name: str, width: int, d_head: int) -> None:
  """Checks the number of components of a head that are rotated.

  Raises:
    ConfigError: if it is odd, or not between 2 and the width of a head.
  """
  if width < 2 or width % 2 or width > d_head:
    raise ConfigError(
      f"{name} must rotate an even number of a head's {d_head} components, "
      f"got {width}"
    )


def is_exact_gelu(name: Any) -> bool:
  """Whether an activation is gelu itself, and not its approximation by tanh.

  Raises:
    ConfigError: if it is not a gelu.
  """
  exact = {
    "gelu": True,
    "gelu_new": False,
    "gelu_fast": False,
    "gelu_pytorch_tanh": False,
  }
  if not isinstance(name, str) or name not in exact:
    raise ConfigError(
      f"the activation must be one of {', '.join(exact)}, got {name!r}"
    )
  return exact[name]
