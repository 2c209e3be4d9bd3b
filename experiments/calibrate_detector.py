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

The JSON holds two sets of bounds. Under `raw` are the worst cells of the table
as they are: of so many noisy shares the worst is always worse than its cell.
The four at the top are the worst after the cells were drawn together as far as
chance explains their differences (`shrunk_means`), so they are milder: read
both. With many replicates they come to the same.

Peers, where they are installed (`pip install -e ".[bench]"`): PELT and binary
segmentation of ruptures, at the customary penalty, on the same curves.
"""

import argparse
import importlib.util
import json
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import signal as filters
from scipy import stats

from induction_jax.transition import (
  Interval,
  Transition,
  curves,
  detect,
  detector,
)

RHOS = (0.0, 0.5, 0.8, 0.95)
WIDTHS = (0.01, 0.03, 0.1, 0.3)
HEIGHTS = (5.0, 10.0)  # amplitude over the noise's marginal sd
DRIFT_HEIGHT = 10.0  # range of a null over the noise's marginal sd
# Where a jump as wide as 30 % of the run is still all inside, and past the
# age at which a change of that width would be as slow as the run is old.
MIDPOINTS = (0.35, 0.65)
# Of the bounds that power and coverage must keep.
BOUND_RHO = 0.8
FOUND = ("detected", "in_progress", "before_start")
# Replicates of every cell between two savings of the figures.
ROUND = 5
BOUNDS = ("false_alarm_max", "power_min", "coverage_min", "coverage_max")
COVERAGE = (
  "coverage",
  "coverage_se",
  "coverage_onset",
  "coverage_midpoint",
  "coverage_completion",
  "at_floor",
)


class Cell(NamedTuple):
  """One line of the table: what the curves are."""

  kind: str  # constant | linear | power law | broken power law | logistic
  rho: float
  height: float  # of the drift, or of the jump, in noise sds
  width: float  # of the jump, in runs; 0 without one


class Outcome(NamedTuple):
  """What became of one curve; without a jump only the status says anything."""

  status: str
  covered: tuple[bool, bool, bool] = (False, False, False)
  at_floor: bool = False
  most_power: float = 0.0


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
  if chosen.replicates < 1 or chosen.points < 100 or chosen.processes < 1:
    parser.error(
      "--replicates and --processes must be at least 1 and --points at least "
      f"100, got {chosen.replicates}, {chosen.processes} and {chosen.points}"
    )
  figures: dict[str, Any] = {}
  # Workers start afresh, so that none multiplies matrices on every core.
  with ProcessPoolExecutor(chosen.processes, get_context("spawn")) as pool:
    for figures in calibrate(
      pool, chosen.replicates, chosen.points, chosen.seed
    ):
      _write(figures, chosen.json)
    print_table(figures["table"])
    if chosen.peers:
      figures["peers"] = race_peers(
        pool, chosen.replicates, chosen.points, chosen.seed
      )
      print_table(figures["peers"])
      _write(figures, chosen.json)
  print(json.dumps({k: figures[k] for k in (*BOUNDS, "raw")}))


def calibrate(
  pool: ProcessPoolExecutor, replicates: int, points: int, seed: int
) -> Iterator[dict[str, Any]]:
  """Figures so far, after every round of all cells; the last are the whole."""
  cells = all_cells()
  outcomes: dict[Cell, list[Outcome]] = {cell: [] for cell in cells}
  for first in range(0, replicates, ROUND):
    numbers = range(first, min(first + ROUND, replicates))
    measure = partial(measure_cell, numbers=numbers, points=points, seed=seed)
    for cell, measured in zip(cells, pool.map(measure, cells)):
      outcomes[cell] += measured
    print(f"{numbers[-1] + 1} replicates", file=sys.stderr, flush=True)
    yield summarise(outcomes)


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
  cell: Cell, *, numbers: range, points: int, seed: int
) -> list[Outcome]:
  """What became of some curves of a cell, by their numbers."""
  outcomes = []
  for steps, curve, truth in sample(cell, numbers, points, seed):
    found = detect(steps, curve)
    outcomes.append(Outcome(found.status))
    if cell.width:
      outcomes[-1] = Outcome(
        found.status,
        covers(found, truth),
        at_floor(found, steps[1] - steps[0]),
        most_power(cell, steps, truth),
      )
  return outcomes


def summarise(outcomes: dict[Cell, list[Outcome]]) -> dict[str, Any]:
  """Bounds of cells drawn together, those of the table itself, the table.

  The first four entries are not the worst cells of the table; `raw` has those.
  """
  table = [make_row(cell, measured) for cell, measured in outcomes.items()]
  found, covered = [], []
  for measured in outcomes.values():
    found.append(np.array([each.status in FOUND for each in measured], float))
    covered.append(_covered(measured).mean(axis=1))
  null = [i for i, row in enumerate(table) if row["kind"] != "logistic"]
  jump = [
    i
    for i, row in enumerate(table)
    if row["kind"] == "logistic" and row["rho"] <= BOUND_RHO
  ]
  seen = [i for i in jump if covered[i].size]
  # Where the measuring interval alone is wider than what is not known, an
  # interval that may not be narrower holds the truth nearly always.
  free = [seen.index(i) for i in seen if table[i]["at_floor"] < 0.5]

  def bounds(
    average: Callable[[list[np.ndarray]], np.ndarray],
  ) -> dict[str, float | None]:
    coverage = average([covered[i] for i in seen])
    return {
      "false_alarm_max": float(max(average([found[i] for i in null]))),
      "power_min": float(min(average([found[i] for i in jump]))),
      "coverage_min": float(min(coverage, default=0.0)),
      "coverage_max": float(max(coverage[free])) if free else None,
    }

  return bounds(shrunk_means) | {"raw": bounds(means), "table": table}


def means(samples: list[np.ndarray]) -> np.ndarray:
  return np.array([sample.mean() for sample in samples])


def shrunk_means(samples: list[np.ndarray]) -> np.ndarray:
  """Means, drawn together as far as chance explains that they differ.

  The worst of many noisy shares is worse than the worst cell is, by much where
  replicates are few. The best guess of each share lies nearer to that of all:
  by the part of their variance that cells all alike would have (James and
  Stein 1961; Efron and Morris 1975). With many replicates these are the means.
  """
  if not samples:
    return np.zeros(0)
  plain, everything = means(samples), np.concatenate(samples)
  spread = plain.var(ddof=1) if len(plain) > 1 else 0.0
  chance = everything.var() * np.mean([1 / len(sample) for sample in samples])
  kept = max(spread - chance, 0.0) / spread if spread else 0.0
  return everything.mean() + kept * (plain - everything.mean())


def make_row(cell: Cell, measured: list[Outcome]) -> dict[str, Any]:
  """A cell's shares; standard errors are of replicates, not of intervals."""
  statuses = [each.status for each in measured]
  row = cell._asdict() | {
    "replicates": len(measured),
    "found": float(np.mean([status in FOUND for status in statuses])),
    "ambiguous": float(np.mean([s == "ambiguous" for s in statuses])),
  }
  if not cell.width:
    return row
  row["most_power"] = float(np.mean([each.most_power for each in measured]))
  covered = _covered(measured)
  if not covered.size:
    return row | dict.fromkeys(COVERAGE)
  hits = covered.mean(axis=1)
  floors = [each.at_floor for each in measured if each.status in FOUND]
  numbers = (
    hits.mean(),
    hits.std(ddof=1) / np.sqrt(len(hits)) if len(hits) > 1 else None,
    *covered.mean(axis=0),
    np.mean(floors),
  )
  return row | {
    name: None if number is None else float(number)
    for name, number in zip(COVERAGE, numbers)
  }


def _covered(measured: list[Outcome]) -> np.ndarray:
  """[found, 3]: of the curves with a transition, which intervals are right."""
  hits = [each.covered for each in measured if each.status in FOUND]
  return np.array(hits, float).reshape(-1, 3)


def sample(
  cell: Cell, numbers: range, points: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
  """Steps, curve, and the true onset, midpoint and completion in steps."""
  steps = 10.0 * np.arange(1, points + 1)
  age = steps / steps[-1]
  name = zlib.crc32(repr(cell).encode())
  for i in numbers:
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
  return 1 / (1 + np.exp(-curves.LOGISTIC_WIDTH * (age - midpoint) / width))


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


def covers(found: Transition, truth: np.ndarray) -> tuple[bool, bool, bool]:
  """Whether each interval holds the truth; one beyond the run does not."""

  def holds(point: Interval | None, true: float) -> bool:
    return point is not None and bool(point.low <= true <= point.high)

  return (
    holds(found.onset, truth[0]),
    holds(found.midpoint, truth[1]),
    holds(found.completion, truth[2]),
  )


def at_floor(found: Transition, gap: float) -> bool:
  """Whether the midpoint's interval is hardly wider than a measurement's."""
  middle = found.midpoint
  return middle is None or middle.high - middle.low < 3 * gap


def most_power(cell: Cell, steps: np.ndarray, truth: np.ndarray) -> float:
  """Power of the most powerful test against the nearest power law.

  The log likelihood ratio of two known curves is normal, apart by d standard
  deviations, d^2 the whitened squared distance of the curves.
  """
  curve = curves.make_curve(steps, steps)
  jump = cell.height * logistic(
    steps / steps[-1], truth[1] / steps[-1], cell.width
  )
  white = curves.whiten(curve, cell.rho, jump)
  nearest = np.inf
  for power in np.linspace(-curves.MAX_POWER, curves.MAX_POWER, 9):
    theta = np.array([cell.rho, power])
    drift = curves.design(curve, curves.CurveModel("power", 0), theta)
    basis, _ = np.linalg.qr(curves.whiten(curve, cell.rho, drift))
    left = white - basis @ (basis.T @ white)
    nearest = min(nearest, float(left @ left))
  critical = stats.norm.isf(detector.SIGNIFICANCE)
  return float(stats.norm.sf(critical - np.sqrt(nearest)))


def race_peers(
  pool: ProcessPoolExecutor, replicates: int, points: int, seed: int
) -> list[dict[str, Any]]:
  """How often ruptures finds a change point, on the same curves."""
  if importlib.util.find_spec("ruptures") is None:
    print("ruptures is not installed: no peers", file=sys.stderr)
    return []
  race = partial(race_cell, replicates=replicates, points=points, seed=seed)
  return list(pool.map(race, all_cells()))


def race_cell(
  cell: Cell, *, replicates: int, points: int, seed: int
) -> dict[str, Any]:
  """Shares of a cell's curves with a change of level, at the penalty of BIC."""
  import ruptures

  found = {"PELT": 0, "BinSeg": 0}
  for _, curve, _ in sample(cell, range(replicates), points, seed):
    noise = np.diff(curve).std() / np.sqrt(2)
    penalty = 2 * noise**2 * np.log(points)
    for name, method in (("PELT", ruptures.Pelt), ("BinSeg", ruptures.Binseg)):
      changes = method(model="l2").fit(curve).predict(pen=penalty)
      found[name] += len(changes) > 1  # the last is the end of the curve
  rates = {name: count / replicates for name, count in found.items()}
  return cell._asdict() | {"replicates": replicates} | rates


def _write(figures: dict[str, Any], path: Path | None) -> None:
  if path:
    path.write_text(json.dumps(figures, indent=2) + "\n")


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
