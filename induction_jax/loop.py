"""The run: chunks of steps, probes when due, checkpoints.

Everything here is host work; what runs on the device comes from the floors
below as pure functions and is compiled once.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr

from induction_jax import losses, optim, tasks
from induction_jax.config import Config, ConfigError, to_dict
from induction_jax.interventions import (
  averages_sequences,
  clamp_heads,
  intervene,
)
from induction_jax.ledger import Ledger, RunLedger
from induction_jax.model import Model, make_model
from induction_jax.probes import (
  HeldOut,
  Probe,
  all_variables,
  find_largest,
  make_curvature,
  make_draw,
  make_probes,
)
from induction_jax.probes.alarm import (
  ALARM,
  DENSER,
  WATCHED,
  alarm_constants,
  alarm_signal,
  alarm_values,
)
from induction_jax.state import TrainState, init_state
from induction_jax.step import (
  TrainChunk,
  make_loss,
  make_train_chunk,
  make_train_step,
)
from induction_jax.storage import checkpoints, dataset, history, vectors
from induction_jax.storage.run_directory import (
  RunDirectory,
  read_json,
  write_json,
)
from induction_jax.transition import trigger
from induction_jax.types import Key, PyTree


class Experiment(NamedTuple):
  """What a config stands for: a network, its training, its probes.

  `probes` are those the run measures with, `all_probes` every one there is;
  `products` says how the Hessian's products are made and its eigenpairs found.
  """

  config: Config
  model: Model
  tx: optax.GradientTransformation
  init: Callable[[], TrainState]
  draw: Callable[[Key], HeldOut]
  train_chunk: TrainChunk
  probes: tuple[Probe, ...]
  all_probes: tuple[Probe, ...]
  products: str


class Snapshot(NamedTuple):
  """What a checkpoint holds: the state, and each probe's carry by name.

  Among the carries is the online trigger's, by its name, if there is one.
  """

  state: TrainState
  carries: dict[str, PyTree]


class Progress(NamedTuple):
  """What is known of a run at a step, for whoever watches."""

  step: int
  values: dict[str, float]  # newest scalars by variable name


Watcher = Callable[[Progress], None]


def make_experiment(config: Config) -> Experiment:
  """Builds everything a run needs from its config, compiled where it runs."""
  return compile_experiment(make_pure_experiment(config))


def make_pure_experiment(config: Config) -> Experiment:
  """The same, not compiled: pure functions, to be mapped over many runs."""
  task = config.task
  model = make_model(config.model, task.vocab_size, task.seq_length)
  # Here and nowhere else, so that all that is trained or measured is clamped.
  model = clamp_heads(model, config.intervention.clamp, config.model)
  draw = make_draw(config)
  curvature = make_curvature(config, model)
  _check_clamps(config, curvature.plan.micro_batch_size)
  tx = intervene(
    optim.make_optimizer(config.optim, config.train.num_steps),
    config,
    curvature.shapes,
    curvature.partition,
    lambda params, key: curvature.hessian_at(params, draw(key)),
    partial(find_largest, curvature.solve),
  )
  loss = make_loss(model, losses.make_weights(config.train.loss_tokens))
  sample = tasks.make_sampler(task, config.train.batch_size)
  train_step = make_train_step(loss, sample, tx)
  all_probes = make_probes(config, model, curvature)
  return Experiment(
    config=config,
    model=model,
    tx=tx,
    init=lambda: init_state(model, tx, jax.random.key(config.seed)),
    draw=draw,
    train_chunk=make_train_chunk(train_step),
    probes=tuple(probe for probe in all_probes if probe.interval),
    all_probes=all_probes,
    products=curvature.told,
  )


def _check_clamps(config: Config, micro_batch_size: int) -> None:
  """Refuses micro-batches whose mean loss is not that of the batch."""
  whole = config.spectra.batch_size
  if micro_batch_size == whole:
    return
  if averages_sequences(config.intervention.clamp):
    raise ConfigError(
      "spectra.micro_batch_size must be spectra.batch_size with a head clamped "
      f"to its mean over sequences, {whole}, got {micro_batch_size} (of 0, by "
      "spectra.memory_gib)"
    )


def compile_experiment(experiment: Experiment) -> Experiment:
  """Each function of an experiment as one program."""
  all_probes = tuple(
    probe._replace(
      constants=jax.jit(probe.constants),
      prepare=jax.jit(probe.prepare),
      measure=jax.jit(probe.measure),
    )
    for probe in experiment.all_probes
  )
  return experiment._replace(
    init=jax.jit(experiment.init),
    draw=jax.jit(experiment.draw),
    train_chunk=jax.jit(experiment.train_chunk, donate_argnums=0),
    probes=tuple(probe for probe in all_probes if probe.interval),
    all_probes=all_probes,
  )


def run(
  experiment: Experiment,
  directory: RunDirectory,
  *,
  cost: "Cost | None" = None,
  ledger: Ledger | None = None,
  should_stop: Callable[[], bool] = lambda: False,
  watch: Watcher = lambda progress: None,
) -> int:
  """Trains and measures to the end, from the newest checkpoint if any.

  At every step where something is due, the probes measure first, then a
  checkpoint is saved; so a checkpoint's history is complete up to its step,
  and a resumed run repeats nothing and skips nothing.

  Args:
    experiment: from make_experiment.
    directory: where the run lives.
    cost: clock of the run; by default one that starts now.
    ledger: where measurements go; by default into the directory.
    should_stop: asked between chunks; true saves a checkpoint and returns.
    watch: told after every chunk.

  Returns:
    The step reached: `train.num_steps`, or less if it was stopped.

  Raises:
    DivergedError: if loss, gradient, parameters or Hessian products stop
      being finite.
  """
  config = experiment.config
  ledger = ledger or RunLedger(directory)
  snapshot, resumed = load_or_init(experiment, directory)
  state, carries = snapshot
  if ALARM.name in carries:  # decides what is due, so it lives on the host
    carries[ALARM.name] = jax.device_get(carries[ALARM.name])
  held_out = experiment.draw(state.key)
  step = int(jnp.max(state.step))  # of many, that of those which still train
  cost = cost or Cost(directory)
  ledger.begin(step if resumed else -1)
  if not resumed:
    for probe in experiment.probes:
      constants = jax.device_get(probe.constants(state, held_out))
      ledger.constants(probe, constants)
    if ALARM.name in carries:
      ledger.constants(ALARM, alarm_constants())
  newest: dict[str, float] = {}
  while True:
    for probe in () if resumed else experiment.probes:
      interval = _interval(probe, carries, config)
      if _due(step, interval, config.train.num_steps):
        with cost.measuring:
          arrays, carry = observe(probe, state, held_out, carries[probe.name])
          kept = jax.device_get(probe.keep(carry))
          newest |= ledger.measured(step, probe, arrays, kept)
          carries[probe.name] = carry
        if probe.name == WATCHED and ALARM.name in carries:
          alarm = trigger.update(carries[ALARM.name], alarm_signal(arrays))
          newest |= ledger.measured(step, ALARM, alarm_values(alarm), {})
          carries[ALARM.name] = alarm
    watch(Progress(step, newest))
    stopping = step >= config.train.num_steps or should_stop()
    if stopping or (not resumed and _checkpoint_due(step, config)):
      ledger.commit()
      snapshot = Snapshot(state, jax.device_put(carries))
      checkpoints.save(directory.checkpoints, step, snapshot)
      cost.save()
    if stopping:
      return step
    resumed = False
    intervals = [_interval(p, carries, config) for p in experiment.probes]
    target = _next_stop(step, intervals, config)
    with cost.training:
      state, metrics = experiment.train_chunk(state, jnp.int32(target - step))
      metrics = jax.device_get(metrics)
    step = target
    newest |= ledger.trained(step, metrics)


def load_or_init(
  experiment: Experiment, directory: RunDirectory
) -> tuple[Snapshot, bool]:
  """The newest checkpoint's snapshot, or the one at step 0; and which."""
  state = experiment.init()
  carries = {
    probe.name: probe.init_carry(state.params) for probe in experiment.probes
  }
  if experiment.config.spectra.adaptive:
    carries[ALARM.name] = jax.device_put(trigger.init_trigger())
  snapshot = Snapshot(state, carries)
  steps = checkpoints.steps(directory.checkpoints)
  if not steps:
    return snapshot, False
  return checkpoints.restore(directory.checkpoints, steps[-1], snapshot), True


def measure_constants(
  probe: Probe, state: TrainState, held_out: HeldOut
) -> dict[str, np.ndarray]:
  """A probe's constants, on the host."""
  constants = jax.device_get(probe.constants(state, held_out))
  return probe.finish_constants(constants)


def keep_vectors(
  probe: Probe, directory: Path, step: int, carry: PyTree
) -> None:
  """Writes what a probe wants kept of a measurement, if anything."""
  if kept := probe.keep(carry):
    vectors.write(directory, step, jax.device_get(kept))


def measure(
  probe: Probe, state: TrainState, held_out: HeldOut, carry: PyTree
) -> tuple[dict[str, np.ndarray], PyTree]:
  """One measurement: named values on the host, and the carry for the next."""
  arrays, carry = observe(probe, state, held_out, carry)
  return probe.finish(arrays), carry


def observe(
  probe: Probe, state: TrainState, held_out: HeldOut, carry: PyTree
) -> tuple[PyTree, PyTree]:
  """One measurement as it leaves the device, and the carry for the next."""
  prepared = probe.prepare(state, held_out)
  arrays, carry = probe.measure(state, held_out, prepared, carry)
  return jax.device_get(arrays), carry


def write_results(
  experiment: Experiment, directory: RunDirectory
) -> xr.Dataset:
  """Rebuilds results.nc from all that was measured, and returns it.

  Raises:
    ConfigError: if nothing was; an earlier results.nc stays as it is.
  """
  results = make_results(experiment, directory)
  dataset.write_dataset(results, directory.results)
  return results


def make_results(experiment: Experiment, directory: RunDirectory) -> xr.Dataset:
  """What results.nc is to hold: all that was measured, on one `step` axis.

  A replay adds to what the run measured and replaces nothing of it; what was
  measured again with other settings does replace it.

  Raises:
    ConfigError: if nothing was measured.
  """
  own = history.read(directory.history)
  if not any(record["kind"] == "probe" for record in own):
    raise ConfigError(f"{directory.history} holds no measurement yet")
  zoomed = history.read(directory.zoomed)
  again = history.read(directory.remeasured)
  variables = all_variables(experiment.all_probes) + ALARM.variables
  attributes = {
    "title": "training run of induction_jax",
    "config": json.dumps(to_dict(experiment.config)),
    "hessian_products": experiment.products,
    "zoomed": json.dumps(_zooms(zoomed)),
    "replayed": json.dumps(_replays(zoomed)),
    "remeasured": json.dumps(
      [{k: v for k, v in each.items() if k != "values"} for each in again]
    ),
  }
  coordinates: dict[str, Sequence] = {}
  for probe in experiment.all_probes:
    coordinates |= probe.coordinates
  # Of two values the later one counts.
  records = zoomed + own + again
  return dataset.make_dataset(records, variables, coordinates, attributes)


def _zooms(records: list[history.Record]) -> list[dict[str, Any]]:
  """Which steps were measured in replays: by probe and range, with a count."""
  counts = Counter(
    (each["probe"], *each["zoom"].values())
    for each in records
    if each["kind"] == "probe"
  )
  names = ("probe", "from", "to", "every", "measurements")
  return [dict(zip(names, (*zoom, n))) for zoom, n in counts.items()]


def _replays(records: list[history.Record]) -> list[dict[str, Any]]:
  """How replays compared with checkpoints, the newest of equal ranges."""
  newest = {
    (each["start"], each["step"]): each
    for each in records
    if each["kind"] == "replay"
  }
  names = ("equal", "largest_difference")
  return [
    {"from": start, "to": step} | {name: each[name] for name in names}
    for (start, step), each in newest.items()
  ]


class Cost:
  """Seconds a run took over all its starts: in all, training, measuring.

  Args:
    run: whose cost.json to add to.
    started: time.perf_counter() at the start; by default now.
  """

  def __init__(self, run: RunDirectory, started: float | None = None):
    self._path = run.cost
    self._seconds = {
      "wall_seconds": 0.0,
      "train_seconds": 0.0,
      "measure_seconds": 0.0,
    }
    if run.cost.exists():
      self._seconds |= read_json(run.cost)
    started = time.perf_counter() if started is None else started
    self._started = started - self._seconds["wall_seconds"]
    self.training = _Stopwatch(self._seconds, "train_seconds")
    self.measuring = _Stopwatch(self._seconds, "measure_seconds")

  def save(self) -> None:
    self._seconds["wall_seconds"] = time.perf_counter() - self._started
    write_json(self._path, self._seconds)


class _Stopwatch:
  """Adds the time inside a `with` block to an entry."""

  def __init__(self, seconds: dict[str, float], name: str):
    self._seconds, self._name, self._start = seconds, name, 0.0

  def __enter__(self) -> None:
    self._start = time.perf_counter()

  def __exit__(self, *_: Any) -> None:
    self._seconds[self._name] += time.perf_counter() - self._start


def _due(step: int, interval: int, num_steps: int) -> bool:
  return step % interval == 0 or step == num_steps


def _checkpoint_due(step: int, config: Config) -> bool:
  """Powers of two up to the interval, if wanted; then every interval."""
  interval = config.checkpoint.interval
  if step % interval == 0:
    return True
  early = config.checkpoint.log_spaced and step < interval
  return early and step & (step - 1) == 0


def _interval(probe: Probe, carries: dict[str, PyTree], config: Config) -> int:
  """Steps between a probe's measurements as things stand."""
  alarm = carries.get(ALARM.name)
  if probe.name == DENSER and alarm and alarm.alarm:
    return config.spectra.adaptive
  return probe.interval


def _next_stop(step: int, intervals: Iterable[int], config: Config) -> int:
  """The next step at which a probe, a checkpoint or the end is due."""
  intervals = [*intervals, config.checkpoint.interval]
  stops = [interval * (step // interval + 1) for interval in intervals]
  if config.checkpoint.log_spaced and step < config.checkpoint.interval:
    stops.append(1 << step.bit_length())
  return min(*stops, config.train.num_steps)
