r"""Measures the heads and circuits of a file of weights.

  python -m induction_jax.measure --weights model.safetensors
  python -m induction_jax.measure --weights model.safetensors --ablate \
    --batch_size=32 --seq_length=256

Reads GPT-2's and GPT-NeoX's (Pythia's) layout and what induction_jax.export
writes, with the network's settings in config.json, or in a .json of the file's
own name, beside it. Sequences are random tokens in which a pattern returns.
"""

import json
from pathlib import Path

import jax
import numpy as np
import xarray as xr
from absl import flags

from induction_jax import exchange
from induction_jax.commands import command_line
from induction_jax.config import ConfigError
from induction_jax.exchange import Architecture
from induction_jax.measurements import pretrained
from induction_jax.measurements.pretrained import Sequences
from induction_jax.report.pretrained import format_heads
from induction_jax.storage import dataset
from induction_jax.types import Params

LONGEST = 128  # tokens of a sequence, where the network reads as many
PATTERN = (8, 32)
GAP = 32


def main(argv: list[str]) -> int:
  """Runs the command line; returns the exit status."""
  values = flags.FlagValues()
  _define_flags(values)
  if extra := command_line.parse(values, argv, __doc__ or ""):
    raise ConfigError(f"unexpected argument {extra[0]!r} beside --weights")
  path = Path(values.weights)
  settings = values.model_config
  out = Path(values.out) if values.out else path.with_suffix(".results.nc")
  _check_out(out)
  architecture, params = exchange.read_model(
    path, Path(settings) if settings else exchange.settings_beside(path)
  )
  config = architecture.config
  print(
    f"{path}: {config.n_layers} layers of {config.n_heads} heads, width "
    f"{config.d_model}, vocabulary {architecture.vocab_size}",
    flush=True,
  )
  length = values.seq_length or min(LONGEST, architecture.seq_length)
  pattern = fitting_pattern(length, architecture.vocab_size)
  if values.pattern is not None:
    pattern = _range("pattern", values.pattern)
  sizes = Sequences(
    batch_size=values.batch_size,
    seq_length=length,
    pattern=pattern,
    gap=_range("gap", values.gap) if values.gap else (0, min(GAP, length // 4)),
  )
  print(
    f"{sizes.batch_size} sequences of {length} tokens, patterns of "
    f"{pattern[0]} to {pattern[1]}, gaps of {sizes.gap[0]} to {sizes.gap[1]}",
    flush=True,
  )
  results = measure_weights(
    architecture, params, sizes, values.seed, values.ablate
  )
  results.attrs["weights"] = str(path)
  dataset.write_dataset(results, out)
  print(f"{format_heads(results)}\n\nresults: {out}")
  return 0


def fitting_pattern(seq_length: int, vocab_size: int) -> tuple[int, int]:
  """Shortest and longest pattern: 8 and 32, or what a small network allows.

  A pattern's tokens are distinct, and a sequence should hold a few.
  """
  longest = max(2, min(PATTERN[1], seq_length // 4, vocab_size - 1))
  return min(PATTERN[0], longest), longest


def measure_weights(
  architecture: Architecture,
  params: Params,
  sizes: Sequences,
  seed: int,
  ablate: bool,
) -> xr.Dataset:
  """Everything there is to measure of a network, as a labelled dataset."""
  batch_key, null_key = jax.random.split(jax.random.key(seed))
  batch = pretrained.sample_batch(architecture, sizes, batch_key)
  if not np.any(batch.predictable):
    raise ConfigError(
      "no pattern returns in any sequence, so nothing can be predicted: lower "
      "--pattern or --gap, or raise --seq_length"
    )
  values = pretrained.measure_behaviour(architecture, params, batch)
  values |= pretrained.measure_circuits(architecture, params, null_key)
  if ablate:
    shape = (architecture.config.n_layers, architecture.config.n_heads)
    cost, error = np.zeros(shape), np.zeros(shape)
    for layer, head, *found in pretrained.measure_ablation(
      architecture, params, batch
    ):
      cost[layer, head], error[layer, head] = found
    values |= {"ablation_cost": cost, "ablation_cost_se": error}
    values["ablation_cost_null"] = np.zeros(())
  return dataset.make_dataset(
    [{"step": 0, "values": values}],
    pretrained.VARIABLES,
    coordinates={},
    attributes={
      "title": "weights measured by induction_jax",
      "sequences": json.dumps(sizes._asdict() | {"seed": seed}),
      "network": json.dumps(
        vars(architecture.config) | architecture.convention._asdict()
      ),
    },
  ).drop_vars("step")


def _define_flags(values: flags.FlagValues) -> None:
  flags.DEFINE_string(
    "weights", None, "A safetensors file.", flag_values=values
  )
  flags.DEFINE_string(
    "model_config", None, "JSON of the network's settings.", flag_values=values
  )
  flags.DEFINE_string(
    "out",
    None,
    "File to write; default <weights>.results.nc.",
    flag_values=values,
  )
  flags.DEFINE_integer(
    "batch_size",
    16,
    "Sequences, at least 2.",
    lower_bound=2,
    flag_values=values,
  )
  flags.DEFINE_integer(
    "seq_length",
    None,
    f"Tokens of a sequence; default {LONGEST}, or all that the network reads.",
    lower_bound=2,
    flag_values=values,
  )
  flags.DEFINE_list(
    "pattern",
    None,
    "Shortest, longest pattern; default {},{}, or less where less fits.".format(
      *PATTERN
    ),
    flag_values=values,
  )
  flags.DEFINE_list(
    "gap",
    None,
    f"Shortest, longest gap; default 0,{GAP}, or less where less fits.",
    flag_values=values,
  )
  flags.DEFINE_integer(
    "seed",
    0,
    "Of all that is drawn.",
    lower_bound=0,
    upper_bound=2**32 - 1,
    flag_values=values,
  )
  flags.DEFINE_boolean(
    "ablate",
    False,
    "Silence every head: a forward pass for each.",
    flag_values=values,
  )


def _check_out(out: Path) -> None:
  """Before anything is measured; weights and settings are never named so."""
  if out.suffix != ".nc":
    raise ConfigError(f"--out must end in .nc, got {out}")
  if not out.parent.is_dir():
    raise ConfigError(f"--out: there is no directory {out.parent}")


def _range(name: str, values: list[str]) -> tuple[int, int]:
  if len(values) != 2 or not all(value.strip().isdecimal() for value in values):
    raise ConfigError(
      f"--{name} must be two numbers, such as 8,32, got {','.join(values)!r}"
    )
  return int(values[0]), int(values[1])
