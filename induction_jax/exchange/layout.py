"""What a layout of weights is: the names and shapes of published models."""

import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from induction_jax.config import ConfigError, ModelConfig
from induction_jax.model import OWN_CONVENTION, Convention
from induction_jax.storage.tensors import Tensors

Settings = Mapping[str, Any]  # the JSON beside a file of weights


class Architecture(NamedTuple):
  """A network without its weights: the arguments of model.make_model."""

  config: ModelConfig
  vocab_size: int
  seq_length: int
  convention: Convention = OWN_CONVENTION


class Layout(NamedTuple):
  """How one family of models writes its weights down.

  Attributes:
    prefixes: that names may have; left out before all else.
    ignored: names, {} for the layer, that may be there and say nothing new.
    describe: settings -> Architecture; KeyError for a setting that is missing.
    shapes: (settings, Architecture) -> the shape of every tensor by name.
    convert: (Architecture, tensors) -> parameters named as in model/weights.py.
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
  """The same shapes in every layer, `template` naming the layer as {}."""
  return {
    template.format(layer) + name: shape
    for layer in range(architecture.config.n_layers)
    for name, shape in shapes.items()
  }


def stack_layers(
  architecture: Architecture, tensors: Tensors, template: str, name: str
) -> np.ndarray:
  """One tensor of every layer, [L, ...]."""
  layers = range(architecture.config.n_layers)
  return np.stack([tensors[template.format(layer) + name] for layer in layers])


def split_heads(architecture: Architecture, joined: np.ndarray) -> np.ndarray:
  """[L, D, H K] -> [L, H, D, K], and biases [L, H K] -> [L, H, K]."""
  config = architecture.config
  split = joined.reshape(*joined.shape[:-1], config.n_heads, config.d_head)
  return np.swapaxes(split, 1, 2) if joined.ndim == 3 else split


def join_heads(architecture: Architecture, joined: np.ndarray) -> np.ndarray:
  """Output weights [L, H K, D] -> [L, H, K, D]."""
  config = architecture.config
  shape = (config.n_layers, config.n_heads, config.d_head, config.d_model)
  return joined.reshape(shape)


def require(settings: Settings, **allowed: Any) -> None:
  """Checks settings that change what a network computes, where present.

  Raises:
    ConfigError: for any other value than the one allowed.
  """
  for name, value in allowed.items():
    if settings.get(name, value) != value:
      raise ConfigError(
        f"{name} must be {value!r} (nothing else is implemented), got "
        f"{settings[name]!r}"
      )


def whole(settings: Settings, name: str) -> int:
  """A setting that counts something.

  Raises:
    KeyError: if it is missing.
    ConfigError: if it is no whole number from 1 up.
  """
  value = settings[name]
  if isinstance(value, bool) or not isinstance(value, int) or value < 1:
    raise ConfigError(f"{name} must be a whole number from 1 up, got {value!r}")
  return value


def positive(settings: Settings, name: str, default: float) -> float:
  """A setting that is a size, as it is written there.

  Raises:
    ConfigError: if it is no finite number above 0.
  """
  value = settings.get(name, default)
  number = isinstance(value, int | float) and not isinstance(value, bool)
  # What no float can hold, such as 10**400, is not below the largest.
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
  """Checks how many of each head's components are turned.

  Raises:
    ConfigError: if they do not make pairs within the head.
  """
  if width < 2 or width % 2 or width > d_head:
    raise ConfigError(
      f"{name} must turn an even number of each head's {d_head} components, "
      f"got {width}"
    )


def is_exact_gelu(name: Any) -> bool:
  """Which gelu a model's settings name.

  Raises:
    ConfigError: if it is none.
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
