"""The command line that measures the heads and circuits of a weights file.

The file may be in the layout of GPT-2, GPT-NeoX (Pythia) or
induction_jax.export. The network's settings are read from a .json file of the
same name beside it, or from config.json. Sequences are random tokens in which a
pattern recurs.
"""

import argparse
from pathlib import Path

from induction_jax import exchange
from induction_jax.commands.pretrained import Sequences, measure_weights
from induction_jax.config import ConfigError
from induction_jax.exchange import Architecture
from induction_jax.report.text import format_heads
from induction_jax.storage import dataset

LONGEST = 128  # default number of tokens in a sequence
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
      help="JSON file of the network's settings. Default: beside the weights.",
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
      help=f"Tokens in a sequence. Default: {LONGEST}, or the network's "
      "maximum if that is less.",
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
      help="Seed of the sequences and of the null values. Default 0.",
    ),
    group.add_argument(
      "--ablate",
      action="store_true",
      help="Also zero-ablate every head, at one forward pass each.",
    ),
  ]


def main(values: argparse.Namespace) -> int:
  """Measures a weights file by parsed flags; returns the exit status."""
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
  """Default lengths of the shortest and longest pattern.

  They are 8 and 32 or less, because the tokens of a pattern are distinct and a
  sequence should contain several occurrences.
  """
  longest = max(2, min(PATTERN[1], seq_length // 4, vocab_size - 1))
  return min(PATTERN[0], longest), longest


def _check(values: argparse.Namespace, out: Path) -> None:
  """Checks the flags before anything is read or measured."""
  # With .nc the output cannot overwrite weights or settings.
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
