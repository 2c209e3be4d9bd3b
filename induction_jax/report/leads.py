"""What sweeps of many seeds and of controls say: leads, alarms, events."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from induction_jax.report import style
from induction_jax.report.events import CURVATURE, Signal, read_signals
from induction_jax.storage.dataset import read_dataset
from induction_jax.storage.documents import read_json
from induction_jax.transition.lead_lag import (
  Lead,
  alarm_threshold,
  compare,
  first_alarm,
)

# Share of the control runs that may give an alarm.
FALSE_ALARMS = 0.05


class Run(NamedTuple):
  """One seed: its transition's onset, and what curvature and scalars did."""

  seed: int
  onset: float | None
  signals: dict[str, Signal]
  events: dict[str, float | None]  # onset and peak of every signal, in steps


def read_sweep(directory: Path) -> list[Run]:
  """The runs of a finished sweep, as its own reports have them."""
  results = read_dataset(directory / "results.nc")
  runs = []
  for i, seed in enumerate(results.seed.values):
    summary = read_json(directory / f"seed_{seed:04d}" / "summary.json")
    onset = summary["transition"]["onset"]
    events = {
      f"{name}, {what}": event[what] and event[what]["estimate"]
      for name, event in summary["events"].items()
      for what in ("onset", "peak")
    }
    runs.append(
      Run(
        int(seed),
        onset and onset["estimate"],
        read_signals(results.isel(seed=i)),
        events,
      )
    )
  return runs


def summarise(
  runs: Sequence[Run], controls: Mapping[str, Sequence[Run]]
) -> dict[str, Any]:
  """The figures of lead_lag.json, and of every seed what they are made of."""
  onsets = [run.onset for run in runs]
  dated = [{n for n, step in run.events.items() if step} for run in runs]
  names = [name for name in runs[0].events if any(name in d for d in dated)]
  leads = compare(onsets, {n: [run.events[n] for run in runs] for n in names})
  alarms = raise_alarms(runs, controls)
  return {
    "n_seeds": leads[names[0]].n_seeds,
    "n_trained": len(runs),
    "events": {name: _figures(lead) for name, lead in leads.items()},
    "alarms": {
      name: _figures(lead) for name, lead in compare(onsets, alarms).items()
    },
    "alarms_before_gradient_norm": {
      name: _figures(lead)
      for name, lead in compare(
        alarms["gradient_norm"],
        {n: alarms[n] for n in alarms if n in CURVATURE},
      ).items()
    },
    "controls": {
      name: {
        "n_trained": len(each),
        "transitions": sum(run.onset is not None for run in each),
        "events": {
          event: sum(run.events[event] is not None for run in each)
          for event in names
        },
      }
      for name, each in controls.items()
    },
    "seeds": [
      {
        "seed": run.seed,
        "onset": run.onset,
        "events": {name: run.events[name] for name in names},
        "alarms": {name: steps[i] for name, steps in alarms.items()},
      }
      for i, run in enumerate(runs)
    ],
  }


def raise_alarms(
  runs: Sequence[Run], controls: Mapping[str, Sequence[Run]]
) -> dict[str, list[float | None]]:
  """First step, by signal and run, at which it leaves its own recent line.

  By further than a share of FALSE_ALARMS of the controls ever does, so that
  all signals are equally often wrong.
  """
  quiet = [run for each in controls.values() for run in each]
  alarms: dict[str, list[float | None]] = {}
  for name in runs[0].signals:
    highest = alarm_threshold(
      [run.signals[name][1] for run in quiet], FALSE_ALARMS
    )
    alarms[name] = [first_alarm(*run.signals[name], highest) for run in runs]
  return alarms


def _figures(lead: Lead) -> dict[str, Any]:
  return {
    "n_dated": lead.n_dated,
    "median_lead": lead.median,
    "interval": None if lead.low is None else [lead.low, lead.high],
    "p_value": lead.p_value,
    "corrected_p_value": lead.corrected,
  }


def format_leads(title: str, figures: Mapping[str, Mapping[str, Any]]) -> str:
  """Markdown: one line an event."""
  lines = [
    f"| {title} | seeds | median lead (steps) | 95 % interval | p, corrected |",
    "|---|---|---|---|---|",
  ]
  for name, lead in figures.items():
    median, interval = "-", "-"
    if lead["median_lead"] is not None:
      median = f"{lead['median_lead']:.0f}"
      interval = "{:.0f} to {:.0f}".format(*lead["interval"])
    lines.append(
      f"| {name.replace('_', ' ')} | {lead['n_dated']} | {median} | {interval} "
      f"| {lead['corrected_p_value']:.2g} |"
    )
  return "\n".join(lines)


def format_controls(controls: Mapping[str, Mapping[str, Any]]) -> str:
  """Markdown: of each control, how many runs had which event."""
  events = list(next(iter(controls.values()))["events"])
  lines = [
    "| event | " + " | ".join(controls) + " |",
    "|---|" + "---|" * len(controls),
  ]

  def cell(each: Mapping[str, Any], count: int) -> str:
    return f"{count} of {each['n_trained']}"

  rows = [("transition", [c["transitions"] for c in controls.values()])]
  rows += [
    (event, [c["events"][event] for c in controls.values()]) for event in events
  ]
  for name, counts in rows:
    cells = [cell(*pair) for pair in zip(controls.values(), counts)]
    lines.append(f"| {name.replace('_', ' ')} | " + " | ".join(cells) + " |")
  return "\n".join(lines)


def plot_leads(runs: Sequence[Run], figures: Mapping[str, Any]) -> Figure:
  """Every seed's lead and the median of each event, the earliest on top.

  In brackets the seeds in which the event was dated.
  """
  events = figures["events"]
  names = sorted(
    (name for name in events if events[name]["median_lead"] is not None),
    key=lambda name: events[name]["median_lead"],
  )
  rng = np.random.default_rng(0)  # of the scatter that parts equal leads
  figure, ax = plt.subplots(figsize=(style.WIDTH, 0.28 * len(names) + 0.9))
  for row, name in enumerate(names):
    color = style.BLUE if name.split(",")[0] in CURVATURE else style.VERMILION
    leads = [
      run.onset - event
      for run in runs
      if run.onset is not None and (event := run.events[name]) is not None
    ]
    ax.scatter(
      leads,
      row + rng.uniform(-0.25, 0.25, len(leads)),
      s=5,
      color=color,
      alpha=0.35,
      linewidths=0,
    )
    low, high = events[name]["interval"]
    ax.plot([low, high], [row, row], color=color, linewidth=2.5)
    ax.plot(events[name]["median_lead"], row, "|", color="black", markersize=9)
  ax.axvline(0, **style.NULL_STYLE)
  labels = [
    f"{name.replace('_', ' ')} ({events[name]['n_dated']})" for name in names
  ]
  ax.set_yticks(range(len(names)), labels)
  ax.set_xlabel(
    "lead over the onset of induction accuracy (steps; positive: earlier)"
  )
  for label, color in (("curvature", style.BLUE), ("scalar", style.VERMILION)):
    ax.plot([], [], color=color, linewidth=2.5, label=label)
  ax.legend(loc="lower right")
  return figure
