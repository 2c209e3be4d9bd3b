"""One line a run: what each found, as a table for experiments/README.md.

python experiments/verdict_table.py runs/quick_* runs/one_layer_0
"""

import json
import sys
from pathlib import Path

COLUMNS = (
  "run",
  "status",
  "onset",
  "midpoint",
  "completion",
  "induction head",
  "accuracy, first → last",
  "prefix matching (head)",
  "previous token (head)",
  "top eigenvalue: before, peak, after; whole run",
  "bottom eigenvalue: before, peak, after; whole run",
)


def main(paths: list[str]) -> None:
  print("| " + " | ".join(COLUMNS) + " |")
  print("|" + "---|" * len(COLUMNS))
  for path in map(Path, paths):
    print("| " + " | ".join(row(path)) + " |")


def row(path: Path) -> list[str]:
  summary = json.loads((path / "summary.json").read_text())
  transition, spectrum = summary["transition"], summary["spectrum"]
  induction = summary["heads"]["induction"]
  previous = summary["heads"]["previous_token"]
  has_head = summary["verdict"]["has_induction_head"]
  return [
    path.name,
    transition["status"],
    *(interval(transition[x]) for x in ("onset", "midpoint", "completion")),
    "yes" if has_head else "no",
    f"{first_accuracy(path):.3f} → {summary['final']['pattern_accuracy']:.3f}",
    f"{induction['prefix_matching']:.2f} {head(induction)}",
    f"{previous['previous_token']:.2f} {head(previous)}",
    *(eigenvalues(spectrum, end) for end in ("top", "bottom")),
  ]


def eigenvalues(spectrum: dict, end: str) -> str:
  moments = (spectrum[f"{end}_{x}"] for x in ("before", "peak", "after"))
  dated = ", ".join("-" if x is None else f"{x:.3g}" for x in moments)
  return f"{dated}; {spectrum[f'{end}_run_peak']:.3g}"


def first_accuracy(path: Path) -> float:
  for line in (path / "history.jsonl").read_text().splitlines():
    record = json.loads(line)
    if "pattern_accuracy" in record["values"]:
      return record["values"]["pattern_accuracy"]
  raise ValueError(f"{path} has no accuracy in its history")


def interval(values: dict | None) -> str:
  if values is None:
    return "-"
  return f"{values['estimate']:.0f} [{values['low']:.0f}, {values['high']:.0f}]"


def head(values: dict) -> str:
  return f"({values['layer']}.{values['head']})"


if __name__ == "__main__":
  main(sys.argv[1:])
