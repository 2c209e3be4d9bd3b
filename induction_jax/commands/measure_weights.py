"""Measures the heads and circuits of a file of weights.

It reads the layouts of GPT-2, GPT-NeoX (Pythia) and induction_jax.export, with
the network's settings in config.json, or in a .json of the file's own name,
beside it. Sequences are random tokens in which a pattern recurs.
"""

import argparse
import json
from pathlib import Path

import jax
import numpy as np
import xarray as xr

from induction_jax import exchange
from induction_jax.config import ConfigError
from induction_jax.exchange import Architecture
from induction_jax.measurements import pretrained
from induction_jax.measurements.pretrained import Sequences
from induction_jax.report.text import format_heads
from induction_jax.storage import dataset
from induction_jax.types import Params

LONGEST = 128  # tokens in a sequence, where the network reads as many
PATTERN = (8, 32)
GAP = 32


def add_flags(parser: argparse.ArgumentParser) -> list[argparse.Action]:
  """Adds the flags for a file of weights; returns them, --weights first."""
  group = parser.add_argument_group("a file of weights")
  shortest, longest = PATTERN
  return [
    group.add_argument(
      "--weights", metavar="FILE", help="safetensors file to measure."
    ),
    group.add_argument(
      "--model-config",
      metavar="FILE",
      help="JSON of the network's settings. Default: beside the weights.",
    ),
    group.add_argument(
      "--out",
      metavar="FILE",
      help="File to write. Default: WEIGHTS.results.nc.",
    ),
    group.add_argument(
      "--batch-size",
      type=int,
      default=16,
      metavar="N",
      help="Number of sequences, at least 2. Default 16.",
    ),
    group.add_argument(
      "--seq-length",
      type=int,
      metavar="N",
      help=f"Tokens in a sequence. Default: {LONGEST}, or the most that the "
      "network reads.",
    ),
    group.add_argument(
      "--pattern",
      metavar="MIN,MAX",
      help=f"Tokens in a pattern. Default: {shortest},{longest}, or what fits.",
    ),
    group.add_argument(
      "--gap",
      metavar="MIN,MAX",
      help=f"Tokens between occurrences. Default: 0,{GAP}, or what fits.",
    ),
    group.add_argument(
      "--seed",
      type=int,
      default=0,
      metavar="N",
      help="Seed of everything that is drawn. Default 0.",
    ),
    group.add_argument(
      "--ablate",
      action="store_true",
      help="Also zero-ablate every head, at one forward pass each.",
    ),
  ]


def main(values: argparse.Namespace) -> int:
  """Measures the file that a command line names; returns the exit status."""
  path, settings = Path(values.weights), values.model_config
  out = Path(values.out) if values.out else path.with_suffix(".results.nc")
  _check(values, out)
  architecture, params = exchange.read_model(
    path, Path(settings) if settings else exchange.settings_beside(path)
  )
  config = architecture.config
  print(
    f"{path}: {config.n_layers} layers of {config.n_heads} heads, width "
    f"{config.d_model}, vocabulary {architecture.vocab_size}",
    flush=True,
  )
  sizes = _choose_sequences(values, architecture)
  print(
    f"{sizes.batch_size} sequences of {sizes.seq_length} tokens, patterns of "
    f"{sizes.pattern[0]} to {sizes.pattern[1]}, gaps of {sizes.gap[0]} to "
    f"{sizes.gap[1]}",
    flush=True,
  )
  results = measure_weights(
    architecture, params, sizes, values.seed, values.ablate
  )
  results.attrs["weights"] = str(path)
  dataset.write_dataset(results, out)
  print(f"{format_heads(results)}\n\nresults: {out}")
  return 0


def _choose_sequences(
  values: argparse.Namespace, architecture: Architecture
) -> Sequences:
  length = values.seq_length or min(LONGEST, architecture.seq_length)
  return Sequences(
    batch_size=values.batch_size,
    seq_length=length,
    pattern=_range("pattern", values.pattern)
    if values.pattern
    else fitting_pattern(length, architecture.vocab_size),
    gap=_range("gap", values.gap) if values.gap else (0, min(GAP, length // 4)),
  )


def fitting_pattern(seq_length: int, vocab_size: int) -> tuple[int, int]:
  """Tokens in the shortest and longest pattern: 8 and 32, or what fits.

  The tokens of a pattern are distinct, and a sequence should hold several
  occurrences.
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
  """Measures everything that weights alone allow, as a labelled dataset."""
  batch_key, null_key = jax.random.split(jax.random.key(seed))
  batch = pretrained.sample_batch(architecture, sizes, batch_key)
  if not np.any(batch.predictable):
    raise ConfigError(
      "no pattern recurs in any sequence, so nothing can be predicted: lower "
      "--pattern or --gap, or raise --seq-length"
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


def _check(values: argparse.Namespace, out: Path) -> None:
  """Checks the flags before anything is read or measured."""
  # A name that neither weights nor their settings have.
  if out.suffix != ".nc":
    raise ConfigError(f"--out must end in .nc, got {out}")
  if not out.parent.is_dir():
    raise ConfigError(f"--out: there is no directory {out.parent}")
  if values.batch_size < 2:
    raise ConfigError(
      f"--batch-size must be at least 2, got {values.batch_size}"
    )
  if values.seq_length is not None and values.seq_length < 2:
    raise ConfigError(
      f"--seq-length must be at least 2, got {values.seq_length}"
    )
  if not 0 <= values.seed < 2**32:
    raise ConfigError(f"--seed must be in [0, 2^32), got {values.seed}")


def _range(name: str, text: str) -> tuple[int, int]:
  numbers = text.split(",")
  if len(numbers) != 2 or not all(x.strip().isdecimal() for x in numbers):
    raise ConfigError(
      f"--{name} must be two numbers, such as 8,32, got {text!r}"
    )
  return int(numbers[0]), int(numbers[1])
