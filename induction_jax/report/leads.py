"""Leads of events over the transition, for sweeps of many seeds and controls.

A lead is the number of steps by which an event of a signal (see `events`) comes
before the onset of the transition. An alarm is an online detection of the same
rise, compared at equal false-alarm rates.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from induction_jax.report import style
from induction_jax.report.events import CURVATURE, Signal, read_signals
from induction_jax.storage.dataset import read_dataset
from induction_jax.storage.files import read_json
from induction_jax.transition.lead_lag import (
  Lead,
  alarm_threshold,
  compare,
  first_alarm,
)

FALSE_ALARMS = 0.05  # share of the control runs that may raise an alarm


class SeedEvents(NamedTuple):
  """One seed of a sweep.

  Attributes:
    seed: the seed.
    onset: step of the transition's onset, or None.
    signals: name -> signal.
    events: "name, onset" and "name, peak" -> step of the event, or None.
  """

  seed: int
  onset: float | None
  signals: dict[str, Signal]
  events: dict[str, float | None]


def read_sweep(directory: Path) -> list[SeedEvents]:
  """Reads the seeds of a finished sweep from its results and summaries."""
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
      SeedEvents(
        int(seed),
        onset and onset["estimate"],
        read_signals(results.isel(seed=i)),
        events,
      )
    )
  return runs


def summarise_leads(
  runs: Sequence[SeedEvents], controls: Mapping[str, Sequence[SeedEvents]]
) -> dict[str, Any]:
  """Computes the contents of lead_lag.json: leads, controls, and all seeds.

  Args:
    runs: the seeds of the setting of interest.
    controls: name -> seeds of a control, in which no induction head forms.
  """
  onsets = [run.onset for run in runs]
  dated = [{n for n, step in run.events.items() if step} for run in runs]
  names = [name for name in runs[0].events if any(name in d for d in dated)]
  leads = compare(onsets, {n: [run.events[n] for run in runs] for n in names})
  alarms = raise_alarms(runs, controls)
  of_curvature = {n: alarms[n] for n in alarms if n in CURVATURE}
  before_gradient = compare(alarms["gradient_norm"], of_curvature)
  return {
    "n_seeds": leads[names[0]].n_seeds,
    "n_trained": len(runs),
    "events": _as_numbers(leads),
    "alarms": _as_numbers(compare(onsets, alarms)),
    "alarms_before_gradient_norm": _as_numbers(before_gradient),
    "controls": {
      name: _count_events(control, names) for name, control in controls.items()
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
  runs: Sequence[SeedEvents], controls: Mapping[str, Sequence[SeedEvents]]
) -> dict[str, list[float | None]]:
  """The first step, by signal and run, at which a signal raises an alarm.

  A signal raises an alarm when it departs from the line through its recent
  values (see `departures`). The threshold of each signal is the one that a
  share FALSE_ALARMS of the control runs exceeds, so that all signals have the
  same false-alarm rate.
  """
  quiet = [run for each in controls.values() for run in each]
  alarms: dict[str, list[float | None]] = {}
  for name in runs[0].signals:
    highest = alarm_threshold(
      [run.signals[name][1] for run in quiet], FALSE_ALARMS
    )
    alarms[name] = [first_alarm(*run.signals[name], highest) for run in runs]
  return alarms


def plot_leads(
  runs: Sequence[SeedEvents], summary: Mapping[str, Any]
) -> Figure:
  """The lead of each event in every seed, with its median and interval.

  The number of seeds in which the event was dated stands in brackets.

  Args:
    runs: the seeds.
    summary: what `summarise_leads` returned for them.
  """
  events = summary["events"]
  names = sorted(
    (name for name in events if events[name]["median_lead"] is not None),
    key=lambda name: events[name]["median_lead"],
  )
  rng = np.random.default_rng(0)  # for the scatter that separates equal leads
  figure, ax = plt.subplots(figsize=(style.WIDTH, 0.28 * len(names) + 0.9))
  for row, name in enumerate(names):
    leads = [
      run.onset - event
      for run in runs
      if run.onset is not None and (event := run.events[name]) is not None
    ]
    heights = row + rng.uniform(-0.25, 0.25, len(leads))
    color = style.BLUE if name.split(",")[0] in CURVATURE else style.VERMILION
    ax.scatter(leads, heights, s=5, color=color, alpha=0.35, linewidths=0)
    ax.plot(events[name]["interval"], [row, row], color=color, linewidth=2.5)
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


def _as_numbers(leads: Mapping[str, Lead]) -> dict[str, dict[str, Any]]:
  return {
    name: {
      "n_dated": lead.n_dated,
      "median_lead": lead.median,
      "interval": None if lead.low is None else [lead.low, lead.high],
      "p_value": lead.p_value,
      "corrected_p_value": lead.corrected,
    }
    for name, lead in leads.items()
  }


def _count_events(
  control: Sequence[SeedEvents], names: Sequence[str]
) -> dict[str, Any]:
  """In how many runs of a control each event occurred."""
  return {
    "n_trained": len(control),
    "transitions": sum(run.onset is not None for run in control),
    "events": {
      name: sum(run.events[name] is not None for run in control)
      for name in names
    },
  }
