"""A stretch of a run again, step for step, to measure it more closely.

Training is a pure function of the state and a run is one compiled program
however its chunks fall (see induction_jax.training.step), so the steps after a
checkpoint can be made again with the same bits. They are compared with every
checkpoint on the way. Nothing that the run wrote is touched.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from induction_jax.config import ConfigError
from induction_jax.devices.keys import key_data
from induction_jax.measurements import Probe
from induction_jax.run.experiment import Experiment
from induction_jax.run.log import scalars
from induction_jax.run.loop import End, Progress, Watcher
from induction_jax.run.measuring import keep_vectors, measure
from induction_jax.run.snapshots import init_snapshot
from induction_jax.run.waiting import AbandonedError, attend
from induction_jax.storage import checkpoints, history
from induction_jax.storage.run_directory import RunDirectory
from induction_jax.training.state import TrainState
from induction_jax.training.step import no_updates
from induction_jax.types import PyTree


class ReplayPlan(NamedTuple):
  """What to replay, and what to measure and to check on the way."""

  first: int  # of the steps to measure
  last: int
  every: int
  start: int  # the checkpoint that the replay starts from
  stop: int  # the first checkpoint at or after `last`, or else `last`
  checks: tuple[int, ...]  # checkpoints that the replay passes

  @property
  def steps(self) -> range:
    """The steps to measure."""
    return range(self.first, self.last + 1, self.every)


class Comparison(NamedTuple):
  """A replayed state beside the checkpoint of the same step.

  Attributes:
    step: the step.
    equal: whether every bit of every leaf is.
    leaf: the leaf that differs most, empty if none does.
    difference: its largest difference over its largest magnitude.
  """

  step: int
  equal: bool
  leaf: str
  difference: float


def last_step(directory: RunDirectory) -> int:
  """How far a run has come, finished or not."""
  steps = [record["step"] for record in history.read(directory.history)]
  return max([*steps, *checkpoints.steps(directory.checkpoints)], default=0)


def make_plan(
  directory: RunDirectory, first: int, last: int, every: int
) -> ReplayPlan:
  """From the newest checkpoint before `first` to the next after `last`.

  Raises:
    ConfigError: if the run has not all of these steps, or no checkpoint to
      start from.
  """
  reached, saved = (
    last_step(directory),
    checkpoints.steps(directory.checkpoints),
  )
  if every < 1:
    raise ConfigError(f"--every must be at least 1, got {every}")
  if first > last:
    raise ConfigError(
      f"--from must not exceed --to, got --from={first}, --to={last}"
    )
  if first < 0 or last > reached:
    raise ConfigError(
      f"--from and --to must lie in the run, which has steps 0 to {reached}, "
      f"got --from={first}, --to={last}"
    )
  before = [step for step in saved if step <= first]
  if not before:
    raise ConfigError(
      f"{directory.checkpoints} holds no checkpoint at or before step {first}: "
      "there is nothing to replay from"
    )
  whole = partial(checkpoints.verified_steps, directory.checkpoints)
  start = next(whole(reversed(before)), None)
  if start is None:
    raise ConfigError(
      f"{directory.checkpoints} holds no complete checkpoint at or before step "
      f"{first}: there is nothing to replay from"
    )
  stop = min((step for step in saved if step >= last), default=last)
  checks = tuple(whole(step for step in saved if before[-1] < step <= stop))
  return ReplayPlan(first, last, every, start, stop, checks)


def replay(
  experiment: Experiment,
  directory: RunDirectory,
  plan: ReplayPlan,
  probes: Sequence[Probe],
  *,
  should_stop: Callable[[], bool] = lambda: False,
  watch: Watcher = lambda progress: None,
) -> tuple[End, list[Comparison]]:
  """Trains again, measuring and comparing; each result is kept at once.

  A measurement is a function of the state alone: it starts from no carry, so
  that its bits do not depend on the steps measured before it, and what needs
  a measurement before it (an overlap) is nan. What the run or an earlier
  replay has measured is not measured again.

  Args:
    experiment: of the run's own config.
    directory: of the run; zoomed.jsonl and kept eigenvectors are added to.
    plan: from make_plan.
    probes: to measure with.
    should_stop: asked again and again; true ends the replay. A thread may
      then be at work still: end the process by os._exit.
    watch: told after every chunk.

  Returns:
    Where it came to, and a comparison for each checkpoint passed.

  Raises:
    FloatingPointError: where training or a product stops being finite.
  """
  like = init_snapshot(experiment)
  state = checkpoints.restore(directory.checkpoints, plan.start, like).state
  if directory.zoomed.exists():  # drops what a crash has cut off
    history.truncate(directory.zoomed, last_step(directory))
  todo = _left_to_measure(directory, plan, probes)
  held_out = experiment.draw(state.key)
  stops = sorted({*plan.steps, *plan.checks, plan.stop})
  step, compared = plan.start, list[Comparison]()
  try:
    while True:
      newest: dict[str, float] = {}
      for probe in todo.get(step, ()):
        work = partial(measure, probe, state, held_out)
        values, carry = attend(
          partial(work, probe.init_carry(state.params)), should_stop
        )
        newest |= _keep(directory, plan, probe, step, values, carry)
      if step in plan.checks:
        stored = checkpoints.restore(directory.checkpoints, step, like).state
        compared.append(compare(step, state, stored))
        _keep_comparison(directory, plan, compared[-1])
      watch(Progress(step, newest))
      if step >= plan.stop or should_stop():
        return End(step, step >= plan.stop), compared
      target = next(stop for stop in stops if stop > step)
      state = attend(
        partial(_train, experiment, state, target - step), should_stop
      )
      step = target
  except AbandonedError:  # what was measured is kept already
    return End(step, complete=False), compared


def _train(experiment: Experiment, state: TrainState, num: int) -> TrainState:
  """Some updates; the state before them is gone.

  Raises:
    FloatingPointError: where one is not finite.
  """
  updates = no_updates(state.step)
  state, seen = experiment.train_chunk(state, jnp.int32(num), updates)
  bad = int(jax.device_get(seen.first_bad_step))
  if bad >= 0:
    raise FloatingPointError(
      f"non-finite loss, gradient or parameters at step {bad}"
    )
  return state


def compare(step: int, replayed: TrainState, stored: TrainState) -> Comparison:
  """Two states, bit by bit: parameters, optimiser state, step and key."""
  worst, leaf, equal = 0.0, "", True
  pairs = zip(_leaves(replayed), _leaves(stored), strict=True)
  for (name, a), (_, b) in pairs:
    if a.tobytes() == b.tobytes():
      continue
    equal = False
    wide_a, wide_b = np.float64(a), np.float64(b)
    largest = max(np.abs(wide_b).max(), np.finfo(np.float32).tiny)
    # Of a nan nothing can be said but that it is far away.
    difference = float(np.abs(wide_a - wide_b).max() / largest)
    difference = difference if np.isfinite(difference) else np.inf
    if not leaf or difference > worst:
      worst, leaf = difference, name
  return Comparison(step, equal, leaf, worst)


def _left_to_measure(
  directory: RunDirectory, plan: ReplayPlan, probes: Sequence[Probe]
) -> dict[int, list[Probe]]:
  """Probes by step, without what the run or an earlier replay has measured."""
  done = {
    (record["step"], record.get("measurement"))
    for path in (directory.history, directory.zoomed)
    for record in history.read(path)
  }
  return {
    step: [probe for probe in probes if (step, probe.name) not in done]
    for step in plan.steps
  }


def _keep(
  directory: RunDirectory,
  plan: ReplayPlan,
  probe: Probe,
  step: int,
  values: dict[str, np.ndarray],
  carry: PyTree,
) -> dict[str, float]:
  """Keeps what was measured; returns its scalars."""
  if complaint := probe.complain(values):
    raise FloatingPointError(f"step {step}: {complaint}")
  keep_vectors(probe, directory.eigenvectors / "zoomed", step, carry)
  zoom = {"from": plan.first, "to": plan.last, "every": plan.every}
  history.append(
    directory.zoomed,
    step,
    "measurement",
    values,
    measurement=probe.name,
    zoom=zoom,
  )
  return scalars(values)


def _keep_comparison(
  directory: RunDirectory, plan: ReplayPlan, compared: Comparison
) -> None:
  finite = np.isfinite(compared.difference)
  history.append(
    directory.zoomed,
    compared.step,
    "replay",
    {},
    start=plan.start,
    equal=compared.equal,
    largest_difference=compared.difference if finite else None,
  )


def _leaves(state: TrainState) -> list[tuple[str, np.ndarray]]:
  """Names and values of all leaves, the key as what it is made of."""
  plain = jax.device_get(key_data(state))
  leaves, _ = jax.tree_util.tree_flatten_with_path(plain)
  return [
    (jax.tree_util.keystr(path, simple=True, separator="."), np.asarray(leaf))
    for path, leaf in leaves
  ]
