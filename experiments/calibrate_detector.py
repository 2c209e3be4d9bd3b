r"""How often the transition detector is wrong, on curves with a known answer.

Question: how often does `detect` at its default settings report a transition
that is not there, miss one, or give an interval that does not hold the truth?

  python -m experiments.calibrate_detector --json calibration.json
  python -m experiments.calibrate_detector --replicates 20 --points 400

Curves without a jump, in white and in AR(1) noise, show false alarms: any
answer that names a jump (detected, in_progress or before_start). Logistics of
several widths and heights show power and the coverage of the intervals. The
file also has the largest power that a test could reach which knows midpoint,
width and noise; where that is low, the curve does not hold the evidence.

There are two sets of bounds. `raw` has the worst cells of the table. Of many
noisy shares the worst is worse than its cell, so the four bounds at the top of
the file are the worst after the cells were shrunk towards their mean as far as
chance explains their differences (`shrunk_means`). They agree with many
replicates.

--peers adds PELT and binary segmentation of ruptures, at the customary penalty,
on the same curves (pip install -e ".[bench]").

Prints: the bounds, the curves without a jump, and the curves with one.
Takes: 36 CPU-seconds for a replicate of all 48 cells of 1000 points. The file
is written after every five replicates.
"""

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import Any, NamedTuple

import numpy as np

from experiments.shared.reporting import Table, make_parser, report, save
from experiments.synthetic_curves import Cell, all_cells, most_power, sample
from induction_jax.transition import Interval, Transition, detect

BOUND_RHO = 0.8  # largest AR(1) coefficient whose cells bound power, coverage
FOUND = ("detected", "in_progress", "before_start")
ROUND = 5  # replicates of every cell between two savings of the figures
BOUNDS = ("false_alarm_max", "power_min", "coverage_min", "coverage_max")
AIMS = ("at most 0.05", "at least 0.95", "at least 0.85", "at most 0.99")
COVERAGE = (
  "coverage",
  "coverage_se",
  "coverage_onset",
  "coverage_midpoint",
  "coverage_completion",
  "at_floor",
)


class Outcome(NamedTuple):
  """The answer for one curve. Without a jump only the status matters."""

  status: str
  covered: tuple[bool, bool, bool] = (False, False, False)
  at_floor: bool = False
  most_power: float = 0.0


def main(argv: list[str] | None = None) -> None:
  parser = make_parser(__doc__)
  parser.add_argument("--replicates", type=int, default=200)
  parser.add_argument("--points", type=int, default=1000)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--processes", type=int, default=os.cpu_count())
  parser.add_argument("--peers", action="store_true", help="ruptures as well")
  options = parser.parse_args(argv)
  if options.replicates < 1 or options.points < 100 or options.processes < 1:
    parser.error(
      "--replicates and --processes must be at least 1 and --points at least "
      f"100, got {options.replicates}, {options.processes} and {options.points}"
    )
  curves = options.replicates, options.points, options.seed
  figures: dict[str, Any] = {}
  # "spawn" because a forked worker would use every core for its products.
  with ProcessPoolExecutor(options.processes, get_context("spawn")) as pool:
    for figures in calibrate(pool, *curves):
      if options.json:
        save(make_tables(figures, []), options.json, figures)
    peers = race_peers(pool, *curves) if options.peers else []
  report(make_tables(figures, peers), options.json, figures)


def calibrate(
  pool: ProcessPoolExecutor, replicates: int, points: int, seed: int
) -> Iterator[dict[str, Any]]:
  """Yields the figures so far, after every round of all cells."""
  cells = all_cells()
  outcomes: dict[Cell, list[Outcome]] = {cell: [] for cell in cells}
  for first in range(0, replicates, ROUND):
    numbers = range(first, min(first + ROUND, replicates))
    measure = partial(measure_cell, numbers=numbers, points=points, seed=seed)
    for cell, measured in zip(cells, pool.map(measure, cells)):
      outcomes[cell] += measured
    print(f"{numbers[-1] + 1} replicates", file=sys.stderr, flush=True)
    yield summarise(outcomes)


def measure_cell(
  cell: Cell, *, numbers: range, points: int, seed: int
) -> list[Outcome]:
  """The outcomes of some curves of a cell, given by their numbers."""
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
  """The bounds of shrunk cells, those of the table (`raw`), and the table."""
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
  # No interval is narrower than the measuring interval. A cell where most are
  # that narrow holds the truth nearly always, and does not bound coverage_max.
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
  """Means, shrunk towards the overall mean as far as chance explains them.

  The smallest of many noisy means is smaller than the smallest expectation. The
  James-Stein estimate of each expectation lies nearer to the overall mean, by
  the share of the variance of the means that equal cells would have (James and
  Stein 1961; Efron and Morris 1975). With many replicates it is the mean.
  """
  if not samples:
    return np.zeros(0)
  plain, everything = means(samples), np.concatenate(samples)
  spread = plain.var(ddof=1) if len(plain) > 1 else 0.0
  chance = everything.var() * np.mean([1 / len(sample) for sample in samples])
  kept = max(spread - chance, 0.0) / spread if spread else 0.0
  return everything.mean() + kept * (plain - everything.mean())


def make_row(cell: Cell, measured: list[Outcome]) -> dict[str, Any]:
  """A row of a cell; the standard error is over replicates."""
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
  """[found, 3]: which intervals hold the truth, where a jump was found."""
  hits = [each.covered for each in measured if each.status in FOUND]
  return np.array(hits, float).reshape(-1, 3)


def covers(found: Transition, truth: np.ndarray) -> tuple[bool, bool, bool]:
  """Whether each interval holds the truth; a missing one does not."""

  def holds(point: Interval | None, true: float) -> bool:
    return point is not None and bool(point.low <= true <= point.high)

  return (
    holds(found.onset, truth[0]),
    holds(found.midpoint, truth[1]),
    holds(found.completion, truth[2]),
  )


def at_floor(found: Transition, gap: float) -> bool:
  """Whether the midpoint's interval is narrower than three measurements."""
  middle = found.midpoint
  return middle is None or middle.high - middle.low < 3 * gap


def race_peers(
  pool: ProcessPoolExecutor, replicates: int, points: int, seed: int
) -> list[dict[str, Any]]:
  """How often ruptures finds a change point in the same curves."""
  if importlib.util.find_spec("ruptures") is None:
    print("ruptures is not installed: no peers", file=sys.stderr)
    return []
  race = partial(race_cell, replicates=replicates, points=points, seed=seed)
  return list(pool.map(race, all_cells()))


def race_cell(
  cell: Cell, *, replicates: int, points: int, seed: int
) -> dict[str, Any]:
  """Shares of a cell's curves with a change of level, by BIC's penalty."""
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


def make_tables(
  figures: dict[str, Any], peers: list[dict[str, Any]]
) -> dict[str, Table]:
  """The bounds, the curves without a jump and those with one."""
  nulls, jumps = [], []
  rivals = {Cell(*[row[x] for x in Cell._fields]): row for row in peers}
  for row in figures["table"]:
    if row["kind"] == "logistic":
      names = ("width", "height", "rho", "found", "ambiguous", *COVERAGE)
      jumps.append([row[name] for name in names])
      continue
    rival = rivals.get(Cell(*[row[x] for x in Cell._fields]), {})
    alarms = round(row["found"] * row["replicates"])
    found = [alarms, rival.get("PELT"), rival.get("BinSeg")]
    nulls.append([row["kind"], row["rho"], *found])
  bounds = [
    ["aim", *AIMS],
    ["of the table (`raw`)", *(figures["raw"][name] for name in BOUNDS)],
    ["shrunk", *(figures[name] for name in BOUNDS)],
  ]
  columns = [
    *("width, share of the run", "noise sds", "AR(1)", "found", "ambiguous"),
    *("hold the truth", "s.e.", "onset", "midpoint", "completion"),
    "at the floor",
  ]
  formats = ["g", "g", "g", ".2f", ".2f", ".2f", ".3f", *[".2f"] * 4]
  return {
    "bounds": Table(["", *BOUNDS], ["", *[".3f"] * 4], bounds),
    "nulls": Table(
      ["curve", "AR(1)", "detect", "PELT", "BinSeg"],
      ["", "g", "", ".2f", ".2f"],
      nulls,
    ),
    "jumps": Table(columns, formats, jumps),
  }


if __name__ == "__main__":
  main()
