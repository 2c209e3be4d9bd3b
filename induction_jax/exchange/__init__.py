"""Reading published weights, and writing weights for TransformerLens.

The layouts of GPT-2, GPT-NeoX (Pythia) and TransformerLens can be read, and
that of TransformerLens written.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from induction_jax.config import ConfigError, shown
from induction_jax.exchange.gpt2 import GPT2
from induction_jax.exchange.layout import Architecture, Layout, Settings
from induction_jax.exchange.neox import NEOX
from induction_jax.exchange.transformer_lens import (
  TRANSFORMER_LENS,
  settings_of,
  tensors_of,
)
from induction_jax.storage import tensors as tensors_lib
from induction_jax.storage.files import read_json, write_json
from induction_jax.types import Params

__all__ = ["Architecture", "read_model", "settings_beside", "write_model"]

MOST_LAYERS = 10_000
# By the setting `model_type`.
LAYOUTS = {"gpt2": GPT2, "gpt_neox": NEOX}


def write_model(path: Path, architecture: Architecture, params: Params) -> Path:
  """Writes the state dict of a HookedTransformer, and its config beside it.

  Args:
    path: of the safetensors file. The config has the same name with .json.
    architecture: of the network.
    params: its parameters.

  Returns:
    The path of the config.

  Raises:
    ConfigError: if HookedTransformer cannot express the network.
    OSError: if a file cannot be written.
  """
  settings = settings_of(architecture)
  path.parent.mkdir(parents=True, exist_ok=True)
  tensors_lib.write(path, tensors_of(architecture, jax.device_get(params)))
  write_json(path.with_suffix(".json"), settings)
  return path.with_suffix(".json")


def read_model(path: Path, settings_path: Path) -> tuple[Architecture, Params]:
  """Reads a network and its parameters, as float32.

  Args:
    path: of the safetensors file.
    settings_path: of the JSON file with the network's settings.

  Raises:
    ConfigError: if the layout is unknown, if induction_jax.model cannot express
      the network, or if the tensors do not fit the settings.
    OSError: if a file does not exist.
  """
  settings = read_json(settings_path)
  if not isinstance(settings, dict):
    raise ConfigError(
      f"{settings_path} must hold an object of settings, got "
      f"{type(settings).__name__}"
    )
  try:
    _check_heads(settings)
    layout = _layout_of(settings)
    architecture = layout.describe(settings)
    _check_layers(architecture)
    expected = layout.shapes(settings, architecture)
  except KeyError as error:
    raise ConfigError(f"{settings_path} must have {error.args[0]}") from error
  except ConfigError as error:
    raise ConfigError(f"{settings_path}: {error}") from error
  layers = range(architecture.config.n_layers)
  ignored = {name.format(i) for name in layout.ignored for i in layers}
  stored = tensors_lib.read_shapes(path)
  try:
    names = _without_prefixes(stored, layout.prefixes)
    shapes = {name: stored[own] for name, own in names.items()}
    tensors_lib.check_shapes(shapes, expected, ignored)
    tensors = tensors_lib.read(path, {name: names[name] for name in expected})
    tensors_lib.check_real(tensors)
    wanted = {name: x.astype(np.float32) for name, x in tensors.items()}
    tensors_lib.check_finite(wanted)
    params = layout.convert(architecture, wanted)
  except ConfigError as error:
    raise ConfigError(f"{path}: {error}") from error
  return architecture, {name: jnp.asarray(x) for name, x in params.items()}


def settings_beside(path: Path) -> Path:
  """The settings file of a file of weights: of the same name, or config.json.

  Raises:
    ConfigError: if neither exists.
    OSError: if the file of weights does not exist.
  """
  if not path.is_file():
    raise FileNotFoundError(f"{path}: no such file")
  for found in (path.with_suffix(".json"), path.with_name("config.json")):
    if found.is_file():
      return found
  raise ConfigError(
    f"{path} needs the settings of its network in the same folder, in "
    f"{path.with_suffix('.json').name} or config.json, and neither exists"
  )


def _layout_of(settings: Settings) -> Layout:
  if "positional_embedding_type" in settings:
    return TRANSFORMER_LENS
  kind = settings.get("model_type")
  if not isinstance(kind, str) or kind not in LAYOUTS:
    raise ConfigError(
      f"model_type must be one of {', '.join(LAYOUTS)}, got {kind!r}"
    )
  return LAYOUTS[kind]


def _check_heads(settings: Settings) -> None:
  """Checks that query heads do not share keys and values."""

  def first(*names: str) -> Any:
    return next((settings[n] for n in names if settings.get(n)), None)

  heads = first("num_attention_heads", "n_head", "n_heads")
  shared = first("num_key_value_heads", "n_key_value_heads") or heads
  if settings.get("multi_query"):
    shared = 1
  if shared != heads:
    raise ConfigError(
      "every query head must have its own keys and values (grouped-query "
      f"attention is not implemented), got {shown(heads)} query heads and "
      f"{shown(shared)} key and value heads"
    )


def _check_layers(architecture: Architecture) -> None:
  """Checks the number of layers, before names are made for all tensors."""
  if architecture.config.n_layers > MOST_LAYERS:
    raise ConfigError(
      f"there must be at most {MOST_LAYERS} layers, got "
      f"{architecture.config.n_layers}"
    )


def _without_prefixes(
  stored: Iterable[str], prefixes: tuple[str, ...]
) -> dict[str, str]:
  """Maps names in the layout to names in the file."""
  names = {name: name for name in stored}
  for prefix in prefixes:
    renamed = {name.removeprefix(prefix): own for name, own in names.items()}
    if len(renamed) < len(names):
      raise ConfigError(f"some tensors exist with and without {prefix}")
    names = renamed
  return names
