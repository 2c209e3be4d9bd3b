r"""How often the transition detector is wrong, on curves whose truth is known.

  python -m experiments.calibrate_detector --json calibration.json
  python -m experiments.calibrate_detector --replicates 20 --points 400

From the repository's root. Nulls without a jump, each in white and in AR(1)
noise, for false alarms; logistics of several widths and heights, for power and
for the intervals' coverage; `detect` at its default settings, which know
nothing of the curves. A false alarm is any answer that names a jump: detected,
in_progress or before_start. Beside the power stands the most that any test
could reach at the detector's level, knowing midpoint, width and noise (Neyman
and Pearson 1933): where it is low, the curve does not hold the evidence.

Peers, where they are installed (`pip install -e ".[bench]"`): PELT and binary
segmentation of ruptures, at the customary penalty, on the same curves.
"""

import argparse
import importlib.util
import json
import os
import sys
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import signal as filters
from scipy import stats

from induction_jax.transition import Transition, detect, models

RHOS = (0.0, 0.5, 0.8, 0.95)
WIDTHS = (0.01, 0.03, 0.1, 0.3)
HEIGHTS = (5.0, 10.0)  # amplitude over the noise's marginal sd
DRIFT_HEIGHT = 10.0  # range of a null over the noise's marginal sd
# Where a jump as wide as 30 % of the run is still all inside, and past the
# age at which a change of that width would be as slow as the run is old.
MIDPOINTS = (0.35, 0.65)
# Of the bounds that power and coverage must keep.
BOUND_RHO = 0.8
SIGNIFICANCE = 0.01
FALSE_ALARMS = ("detected", "in_progress", "before_start")


class Cell(NamedTuple):
  """One line of the table: what the curves are."""

  kind: str  # constant | linear | power law | broken power law | logistic
  rho: float
  height: float  # of the drift, or of the jump, in noise sds
  width: float  # of the jump, in runs; 0 without one


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument("--replicates", type=int, default=200)
  parser.add_argument("--points", type=int, default=1000)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--processes", type=int, default=os.cpu_count())
  parser.add_argument("--json", type=Path, help="where the figures go")
  parser.add_argument("--peers", action="store_true", help="ruptures as well")
  chosen = parser.parse_args()
  if chosen.replicates < 1 or chosen.points < 100:
    parser.error("--replicates must be at least 1 and --points at least 100")
  figures = calibrate(
    chosen.replicates, chosen.points, chosen.seed, chosen.processes
  )
  print_table(figures["table"])
  if chosen.peers:
    peers = race_peers(
      chosen.replicates, chosen.points, chosen.seed, chosen.processes
    )
    figures["peers"] = peers
    print_table(peers)
  bounds = {k: figures[k] for k in list(figures)[:4]}
  print(json.dumps(bounds))
  if chosen.json:
    chosen.json.write_text(json.dumps(figures, indent=2) + "\n")


def calibrate(
  replicates: int, points: int, seed: int, processes: int
) -> dict[str, Any]:
  """All cells, in parallel; the worst of each bound, and the table."""
  measure = partial(
    measure_cell, replicates=replicates, points=points, seed=seed
  )
  os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # of the workers
  table = []
  with ProcessPoolExecutor(processes) as pool:
    for row in pool.map(measure, all_cells()):
      table.append(row)
      print(row, file=sys.stderr, flush=True)
  nulls = [row for row in table if row["kind"] != "logistic"]
  bound = [
    row
    for row in table
    if row["kind"] == "logistic" and row["rho"] <= BOUND_RHO
  ]
  # Where the measuring interval alone is wider than what is not known, an
  # interval that may not be narrower holds the truth nearly always.
  free = [row for row in bound if row["at_floor"] < 0.5]
  return {
    "false_alarm_max": max(row["found"] for row in nulls),
    "power_min": min(row["found"] for row in bound),
    "coverage_min": min(row["coverage"] for row in bound),
    "coverage_max": max((row["coverage"] for row in free), default=None),
    "table": table,
  }


def all_cells() -> list[Cell]:
  nulls = [
    Cell(kind, rho, DRIFT_HEIGHT, 0.0)
    for kind in ("constant", "linear", "power law", "broken power law")
    for rho in RHOS
  ]
  jumps = [
    Cell("logistic", rho, height, width)
    for height in HEIGHTS
    for width in WIDTHS
    for rho in RHOS
  ]
  return nulls + jumps


def measure_cell(
  cell: Cell, *, replicates: int, points: int, seed: int
) -> dict[str, Any]:
  """Answers, power bound and coverage of a cell."""
  statuses, covered, floors, bounds = [], [], [], []
  for steps, curve, truth in sample(cell, replicates, points, seed):
    found = detect(steps, curve)
    statuses.append(found.status)
    if not cell.width:
      continue
    bounds.append(most_power(cell, steps, truth))
    if found.status == "detected":
      covered.append(covers(found, truth))
      floors.append(at_floor(found, steps[1] - steps[0]))
  rates = {
    "found": float(np.mean([s in FALSE_ALARMS for s in statuses])),
    "ambiguous": float(np.mean([s == "ambiguous" for s in statuses])),
  }
  if cell.width:
    rates |= {
      "most_power": float(np.mean(bounds)),
      "coverage": float(np.mean(covered)) if covered else 0.0,
      **{
        f"coverage_{name}": float(np.mean(column))
        for name, column in zip(
          ("onset", "midpoint", "completion"),
          np.transpose(covered) if covered else np.zeros((3, 1)),
        )
      },
      "at_floor": float(np.mean(floors)) if floors else 0.0,
    }
  return cell._asdict() | {"replicates": replicates} | rates


def sample(
  cell: Cell, replicates: int, points: int, seed: int
) -> Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]:
  """Steps, curve, and the true onset, midpoint and completion in steps."""
  steps = 10.0 * np.arange(1, points + 1)
  age = steps / steps[-1]
  name = zlib.crc32(repr(cell).encode())
  for i in range(replicates):
    rng = np.random.default_rng([seed, name, i])
    noise = ar1(rng, points, cell.rho)
    if not cell.width:
      drift = SHAPES[cell.kind](age, rng)
      yield steps, cell.height * drift + noise, np.zeros(0)
      continue
    midpoint = rng.uniform(*MIDPOINTS)
    jump = logistic(age, midpoint, cell.width)
    times = midpoint + cell.width * np.array([-0.5, 0.0, 0.5])
    sign = rng.choice([-1, 1])
    yield steps, sign * cell.height * jump + noise, times * steps[-1]


def ar1(rng: np.random.Generator, points: int, rho: float) -> np.ndarray:
  """Stationary, of unit marginal variance."""
  fresh = rng.normal(size=points)
  fresh[1:] *= np.sqrt(1 - rho**2)
  return filters.lfilter([1.0], [1.0, -rho], fresh)


def logistic(age: np.ndarray, midpoint: float, width: float) -> np.ndarray:
  return 1 / (1 + np.exp(-models.LOGISTIC_WIDTH * (age - midpoint) / width))


def power_law(age: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """A falling or rising power of the step, of exponent -1 to 1, range 1."""
  exponent = rng.choice([-1, 1]) * rng.uniform(0.1, 1.0)
  return unit(age**exponent) * rng.choice([-1, 1])


def broken_power_law(age: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """A smooth break between two exponents (Caballero et al. 2022, 2210.14891).

  y = age^-a (1 + (age / d)^(1 / f))^(-b f), of range 1: exponent a from 0 to
  0.5 before the break and a + b, b from -0.4 to 1, after it; the break d
  between 5 and 70 % of the run, its sharpness f from 0.05 to 0.5.
  """
  a, b = rng.uniform(0, 0.5), rng.uniform(-0.4, 1.0)
  d = np.exp(rng.uniform(np.log(0.05), np.log(0.7)))
  f = rng.uniform(0.05, 0.5)
  return unit(age**-a * (1 + (age / d) ** (1 / f)) ** (-b * f))


def unit(curve: np.ndarray) -> np.ndarray:
  return (curve - curve[0]) / np.ptp(curve)


Shape = Callable[[np.ndarray, np.random.Generator], np.ndarray]
SHAPES: dict[str, Shape] = {
  "constant": lambda age, rng: np.zeros_like(age),
  "linear": lambda age, rng: age * rng.choice([-1, 1]),
  "power law": power_law,
  "broken power law": broken_power_law,
}


def covers(found: Transition, truth: np.ndarray) -> list[bool]:
  """Whether each interval holds the truth; one beyond the run does not."""
  points = (found.onset, found.midpoint, found.completion)
  return [
    point is not None and point.low <= true <= point.high
    for point, true in zip(points, truth)
  ]


def at_floor(found: Transition, gap: float) -> bool:
  """Whether the midpoint's interval is hardly wider than a measurement's."""
  middle = found.midpoint
  return middle is None or middle.high - middle.low < 3 * gap


def most_power(cell: Cell, steps: np.ndarray, truth: np.ndarray) -> float:
  """Power of the most powerful test against the nearest power law.

  The log likelihood ratio of two known curves is normal, apart by d standard
  deviations, d^2 the whitened squared distance of the curves.
  """
  curve = models.make_curve(steps, steps)
  jump = cell.height * logistic(
    steps / steps[-1], truth[1] / steps[-1], cell.width
  )
  white = models.whiten(curve, cell.rho, jump)
  nearest = np.inf
  for power in np.linspace(-models.MAX_POWER, models.MAX_POWER, 9):
    theta = np.array([cell.rho, power])
    drift = models.design(curve, models.Model("power", 0), theta)
    basis, _ = np.linalg.qr(models.whiten(curve, cell.rho, drift))
    left = white - basis @ (basis.T @ white)
    nearest = min(nearest, float(left @ left))
  critical = stats.norm.isf(SIGNIFICANCE)
  return float(stats.norm.sf(critical - np.sqrt(nearest)))


def race_peers(
  replicates: int, points: int, seed: int, processes: int
) -> list[dict[str, Any]]:
  """How often ruptures finds a change point, on the same curves."""
  if importlib.util.find_spec("ruptures") is None:
    print("ruptures is not installed: no peers", file=sys.stderr)
    return []
  race = partial(race_cell, replicates=replicates, points=points, seed=seed)
  with ProcessPoolExecutor(processes) as pool:
    return list(pool.map(race, all_cells()))


def race_cell(
  cell: Cell, *, replicates: int, points: int, seed: int
) -> dict[str, Any]:
  """Shares of a cell's curves with a change of level, at the penalty of BIC."""
  import ruptures

  found = {"PELT": 0, "BinSeg": 0}
  for _, curve, _ in sample(cell, replicates, points, seed):
    noise = np.diff(curve).std() / np.sqrt(2)
    penalty = 2 * noise**2 * np.log(points)
    for name, method in (("PELT", ruptures.Pelt), ("BinSeg", ruptures.Binseg)):
      changes = method(model="l2").fit(curve).predict(pen=penalty)
      found[name] += len(changes) > 1  # the last is the end of the curve
  rates = {name: count / replicates for name, count in found.items()}
  return cell._asdict() | rates


def print_table(rows: list[dict[str, Any]]) -> None:
  """Rows as Markdown, a heading wherever the columns change."""
  columns: list[str] = []
  for row in rows:
    if list(row) != columns:
      columns = list(row)
      print("\n| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    cells = (
      f"{x:.3g}" if isinstance(x, float) else str(x) for x in row.values()
    )
    print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
  main()
