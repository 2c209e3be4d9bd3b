"""The axes along which costs grow, their sizes and the expected exponents.

The base point is near `quick`, with batches of four so that the largest sizes
are still cheap. One axis is varied at a time.
"""

from collections.abc import Mapping
from typing import NamedTuple

MEASUREMENTS = ("step", "behaviour", "circuits", "ablation", "spectra")
# An exponent that exceeds the expected one by more than this is flagged. Caches
# change an exponent by as much; one more factor in a cost changes it by 1.
MARGIN = 0.3

BATCHES = (
  "train.batch_size",
  "behaviour.batch_size",
  "ablation.batch_size",
  "spectra.batch_size",
)
# The tolerance is out of reach, so that Lanczos always does max_order products
# and their number is not another axis. The preconditioned spectrum is left out,
# because it grows like the plain one and doubles the compilation.
ONE_LANCZOS = {
  "spectra.tolerance": 1e-12,
  "spectra.max_order": 16,
  "spectra.preconditioned_top_k": 0,
}
BASE = dict.fromkeys(BATCHES, 4) | ONE_LANCZOS


class Expected(NamedTuple):
  """Exponents of the dominant term, and what that term is."""

  time: float
  memory: float
  why: str


class Axis(NamedTuple):
  """One quantity that is varied from the base point.

  Attributes:
    title: its name in figures.
    sizes: a geometric sequence.
    leaves: settings that take the size; none for the number of seeds.
    expected: by measurement, for those that depend on this quantity.
    also: other settings that differ from BASE.
    train_steps: taken before measuring.
  """

  title: str
  sizes: tuple[int, ...]
  leaves: tuple[str, ...]
  expected: Mapping[str, Expected]
  also: Mapping[str, float] = {}
  train_steps: int = 1

  def settings(self, size: int) -> dict[str, float]:
    """Settings that differ from `quick`, at a size."""
    return BASE | dict(self.also) | dict.fromkeys(self.leaves, size)


PATTERNS = Expected(2, 2, "patterns [H, T, T]")
EVERY_HEAD = Expected(1, 1, "patterns [H, T, T]; products do not depend on H")
LINEAR = Expected(1, 1, "one after another")
AXES = {
  "T": Axis(
    "sequence length T",
    (64, 128, 256, 512),
    ("task.seq_length",),
    {
      "step": PATTERNS,
      "behaviour": PATTERNS,
      "ablation": PATTERNS,
      "spectra": PATTERNS,
    },
  ),
  "D": Axis(
    "width D",
    (64, 128, 256, 512),
    ("model.d_model",),
    {
      "step": Expected(2, 2, "weights [D, D]"),
      "behaviour": Expected(2, 2, "weights [D, D]"),
      "circuits": Expected(3, 2, "a [D, D] by [D, K] product a head, K = D/H"),
      "ablation": Expected(2, 2, "weights [D, D]"),
      "spectra": Expected(2, 2, "weights [D, D]; basis [M, P]"),
    },
  ),
  "L": Axis(
    "layers L",
    (1, 2, 4, 8),
    ("model.n_layers",),
    {
      "step": Expected(1, 1, "layer after layer"),
      "behaviour": Expected(1, 1, "layer after layer"),
      "circuits": Expected(2, 2, "pairs of heads"),
      "ablation": Expected(3, 1, "pairs of heads, a pass of L layers each"),
      "spectra": Expected(1, 1, "layer after layer"),
    },
  ),
  "H": Axis(
    "heads H",
    (4, 8, 16, 32),
    ("model.n_heads",),
    {
      "step": EVERY_HEAD,
      "behaviour": EVERY_HEAD,
      "circuits": Expected(2, 0, "pairs of heads; all [K, K] of them: D^2"),
      "ablation": Expected(3, 1, "pairs of heads, a pass of H patterns each"),
      "spectra": EVERY_HEAD,
    },
  ),
  "B": Axis(
    "batch B",
    (8, 16, 32, 64),
    BATCHES,
    {
      "step": Expected(1, 1, "sequences"),
      "behaviour": Expected(1, 1, "sequences"),
      "ablation": Expected(1, 1, "sequences"),
      "spectra": Expected(1, 1, "sequences"),
    },
  ),
  "k": Axis(
    "eigenpairs k at each end",
    (2, 4, 8, 16, 32),
    ("spectra.track_top_k_eigenvalues",),
    {"spectra": Expected(2, 1, "M ~ k products, Gram-Schmidt M^2 P")},
    also={"spectra.tolerance": 1e-2, "spectra.max_order": 400},
    train_steps=500,
  ),
  "N": Axis(
    "seeds N in one program",
    (1, 2, 4, 8),
    (),
    dict.fromkeys(MEASUREMENTS, LINEAR),
  ),
}
