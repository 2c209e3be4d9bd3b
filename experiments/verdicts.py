"""What each of some runs found, one row a run.

Question: in which runs did an induction head form, when, and what did the
eigenvalues do?

  python -m experiments.verdicts runs/quick_* runs/one_layer_0

Prints: status and dates of the transition with 95 % intervals, the verdict,
accuracy, the best heads (as L1H3), and the extreme eigenvalues (in nats) before
the transition, at their peak in it, after it, and at their largest in the run.
Takes: a second.
"""

import json
from pathlib import Path

from experiments.shared.reporting import Cell, make_parser, make_table, report


def main(argv: list[str] | None = None) -> None:
  parser = make_parser(__doc__)
  parser.add_argument("runs", nargs="+", type=Path, help="run directories")
  options = parser.parse_args(argv)
  rows = [make_row(path) for path in options.runs]
  report({"runs": make_table(rows)}, options.json)


def make_row(run: Path) -> dict[str, Cell]:
  summary = json.loads((run / "summary.json").read_text())
  transition, spectrum = summary["transition"], summary["spectrum"]
  induction = summary["heads"]["induction"]
  previous = summary["heads"]["previous_token"]
  last = summary["final"]["pattern_accuracy"]
  dates = ("onset", "midpoint", "completion")
  return {
    "run": run.name,
    "status": transition["status"],
    **{name: format_interval(transition[name]) for name in dates},
    "induction head": summary["verdict"]["has_induction_head"],
    "accuracy, first → last": f"{read_first_accuracy(run):.3f} → {last:.3f}",
    "prefix matching (head)": (
      f"{induction['prefix_matching']:.2f} {format_head(induction)}"
    ),
    "previous token (head)": (
      f"{previous['previous_token']:.2f} {format_head(previous)}"
    ),
    **{
      f"{end} eigenvalue: before, peak, after; run": format_eigenvalues(
        spectrum, end
      )
      for end in ("top", "bottom")
    },
  }


def format_eigenvalues(spectrum: dict, end: str) -> str:
  moments = (spectrum[f"{end}_{x}"] for x in ("before", "peak", "after"))
  dated = ", ".join("-" if x is None else f"{x:.3g}" for x in moments)
  return f"{dated}; {spectrum[f'{end}_run_peak']:.3g}"


def read_first_accuracy(run: Path) -> float:
  for line in (run / "history.jsonl").read_text().splitlines():
    values = json.loads(line).get("values", {})
    if "pattern_accuracy" in values:
      return values["pattern_accuracy"]
  raise ValueError(f"the history of {run} has no accuracy")


def format_interval(values: dict | None) -> str | None:
  """The estimate of a date and its 95 % interval."""
  if values is None:
    return None
  return "{estimate:.0f} [{low:.0f}, {high:.0f}]".format(**values)


def format_head(values: dict) -> str:
  return f"(L{values['layer']}H{values['head']})"


if __name__ == "__main__":
  main()
