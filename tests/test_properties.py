"""What holds for every input: of tasks, configs, the detector and readers.

Inputs are drawn by hypothesis, the same ones every time.
"""

import dataclasses
import json
import math
import tempfile
from pathlib import Path
from typing import get_type_hints

import jax
import numpy as np
import pytest
from absl.testing import absltest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from configs import base
from induction_jax import tasks
from induction_jax.config import (
  Config,
  ConfigError,
  TaskConfig,
  make_config,
  to_dict,
)
from induction_jax.storage import dataset, history, tensors
from induction_jax.transition import detect
from induction_jax.types import Variable


def examples(count: int) -> settings:
  """So many inputs, which depend on nothing but the test."""
  return settings(
    max_examples=count,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
  )


# Tasks


@st.composite
def task_configs(draw: st.DrawFn, name: str) -> TaskConfig:
  """Valid sections `task`, small."""
  low = draw(st.integers(2, 5))
  high = draw(st.integers(low, 6))
  gap_low = draw(st.integers(0, 3))
  length = draw(st.integers(2 * low + gap_low, 24))
  vocab_size = draw(st.integers(high + 1, 12))
  return TaskConfig(
    name,
    vocab_size,
    length + length % 2,
    low,
    high,
    gap_low,
    draw(st.integers(gap_low, 5)),
    draw(st.sampled_from([0.5, 1.0])),
    draw(st.booleans()),
    draw(st.integers(1, vocab_size - 1)),
    draw(st.booleans()),
  )


SEEDS = st.integers(0, 2**32 - 1)


class TasksTest(absltest.TestCase):
  def draw(self, config, seed, batch_size=3):
    """A batch as int arrays, checked for what holds of every task."""
    sample = jax.jit(tasks.make_sampler(config, batch_size))
    batch, again = (
      jax.tree.map(np.asarray, sample(jax.random.key(seed))) for _ in range(2)
    )
    for one, other in zip(batch, again):
      self.assertEqual(one.shape, (batch_size, config.seq_length))
      np.testing.assert_array_equal(one, other)
    self.assertEqual(batch.predictable.dtype, np.bool_)
    self.assertBetween(batch.tokens.min(), 0, config.vocab_size - 1)
    self.assertBetween(batch.targets.min(), 0, config.vocab_size - 1)
    self.assertBetween(batch.targets.max(), 0, config.vocab_size - 1)
    self.assertLess(batch.tokens.max(), config.vocab_size)
    np.testing.assert_array_equal(batch.targets[:, :-1], batch.tokens[:, 1:])
    return batch

  @examples(4)
  @given(task_configs("repeats"), SEEDS)
  def test_repeats(self, config, seed):
    batch = self.draw(config, seed)
    for tokens, predictable, expected in zip(
      batch.tokens.tolist(), batch.predictable.tolist(), _repeats(config, seed)
    ):
      self.assertEqual([*zip(tokens, predictable)], expected)

  @examples(2)
  @given(task_configs("fixed_offset"), SEEDS)
  def test_fixed_offset(self, config, seed):
    batch, period = self.draw(config, seed), config.seq_length // 2
    for t in range(config.seq_length):
      expected = t + 1 >= period
      self.assertEqual(batch.predictable[:, t].tolist(), [expected] * 3)
      if expected:
        earlier = batch.tokens[:, t + 1 - period]
        np.testing.assert_array_equal(batch.targets[:, t], earlier)

  @examples(2)
  @given(task_configs("markov"), SEEDS)
  def test_markov(self, config, seed):
    batch = self.draw(config, seed)
    for tokens, predictable in zip(batch.tokens.tolist(), batch.predictable):
      for t, token in enumerate(tokens):
        self.assertEqual(predictable[t], token in tokens[:t])

  @examples(2)
  @given(task_configs("bigram_trigger"), SEEDS)
  def test_bigram_trigger(self, config, seed):
    config = dataclasses.replace(config, fixed_triggers=True)
    bigrams = tasks.make_bigrams(config.vocab_size, config.dirichlet)
    triggers = tasks.fixed_triggers(bigrams, config.triggers).tolist()
    batch = self.draw(config, seed)
    for tokens, targets, predictable in zip(*map(np.ndarray.tolist, batch)):
      for t, token in enumerate(tokens):
        earlier = [s for s in range(t) if tokens[s] == token]
        self.assertEqual(predictable[t], bool(earlier) and token in triggers)
        if predictable[t]:
          self.assertEqual({targets[s] for s in earlier}, {targets[t]})


def _repeats(config: TaskConfig, seed: int) -> list[list[tuple[int, bool]]]:
  """Token and `predictable` at every place, by writing the sequences out.

  From the random integers that the sampler has for a batch of 3: a sequence's
  length, gaps, offset, order of the vocabulary, and filler.
  """
  low, high = config.pattern_min, config.pattern_max
  vocab, length = config.vocab_size, config.seq_length
  occurrences = (length + 1) // (low + config.gap_min) + 2
  numbers = 1 + occurrences + 1 + vocab + length + 1
  drawn = jax.random.bits(jax.random.key(seed), (3, numbers))
  return [
    _sequence(config, low + row[0] % (high + 1 - low), row[1:], occurrences)
    for row in np.asarray(drawn).tolist()
  ]


def _sequence(config, length, bits, occurrences):
  span = config.gap_max + 1 - config.gap_min
  gaps = [config.gap_min + x % span for x in bits[:occurrences]]
  offset, *bits = bits[occurrences:]
  order = sorted(range(config.vocab_size), key=lambda v: (bits[v], v))
  filler = bits[config.vocab_size :]
  # None stands for filler.
  stream = []
  for number, gap in enumerate(gaps):
    stream += [(number, token) for token in order[:length]]
    stream += [(number, None)] * gap
  start = offset % (length + gaps[0])
  places = stream[start : start + config.seq_length + 1]
  others = order[length:]
  tokens = [
    others[filler[t] % len(others)] if token is None else token
    for t, (_, token) in enumerate(places)
  ]
  whole = [*zip(places, places[1:])]
  return [
    (
      tokens[t],
      # Both of one occurrence, and the token there before.
      None not in (here[1], after[1])
      and here[0] == after[0]
      and here[1] in tokens[:t],
    )
    for t, (here, after) in enumerate(whole)
  ]


# Configs


def leaves(
  section=Config, prefix=()
) -> list[tuple[tuple[str, ...], type, str]]:
  """Path, type and what is allowed of every leaf."""
  found = []
  kinds = get_type_hints(section)
  for field in dataclasses.fields(section):
    path, kind = (*prefix, field.name), kinds[field.name]
    if dataclasses.is_dataclass(kind):
      found += leaves(kind, path)
    else:
      found.append((path, kind, str(field.metadata["allowed"])))
  return found


LEAVES = leaves()
FLOATS = st.floats(allow_nan=False, allow_infinity=False)


def valid(kind: type, allowed: str) -> st.SearchStrategy:
  """Values of a leaf that its own check takes."""
  if allowed.startswith("one of "):
    return st.sampled_from(allowed.removeprefix("one of ").split(", "))
  if allowed.startswith("at least "):
    low = int(allowed.removeprefix("at least "))
    return st.integers(low, low + 64)
  return {
    "in [0, 2^32)": SEEDS,
    "in [0, 1)": st.floats(0, 1, exclude_max=True),
    "a positive finite number": FLOATS.filter(lambda x: x > 0),
    "a non-negative finite number": FLOATS.map(abs),
    "true or false": st.booleans(),
    "text": st.text(max_size=20),
  }[allowed]


ANYTHING = st.recursive(
  st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
  lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(), x, max_size=3),
  max_leaves=5,
) | st.sampled_from([10**400, -(10**400), 2**32, math.nan, math.inf])


def invalid(kind: type, allowed: str) -> st.SearchStrategy:
  """Values that no leaf of a kind may have."""

  def wrong(x) -> bool:
    number = isinstance(x, int | float) and not isinstance(x, bool)
    if kind is int:
      return type(x) is not int or x < 0 or x >= 2**32
    if kind is float:
      return not number or x < 0 or not x < 1e300
    if kind is bool:
      return not isinstance(x, bool)
    return not isinstance(x, str) or (allowed != "text" and x not in allowed)

  return ANYTHING.filter(wrong)


@st.composite
def configs(draw: st.DrawFn) -> Config:
  """Base with a few other valid leaves that go together."""
  values = base.get_config().to_dict()
  for path, kind, allowed in draw(
    st.lists(st.sampled_from(LEAVES), max_size=6)
  ):
    change(values, path, draw(valid(kind, allowed)))
  try:
    return make_config(values)
  except ConfigError:  # each is valid, but not beside the others
    assume(False)
    raise


def change(values: dict, path: tuple[str, ...], value: object) -> None:
  *sections, leaf = path
  for section in sections:
    values = values[section]
  values[leaf] = value


class ConfigTest(absltest.TestCase):
  @examples(30)
  @given(configs())
  def test_round_trip(self, config):
    self.assertEqual(make_config(to_dict(config)), config)
    self.assertEqual(
      make_config(json.loads(json.dumps(to_dict(config)))), config
    )

  @examples(100)
  @given(st.data())
  def test_a_leaf_that_is_wrong_is_named(self, data):
    path, kind, allowed = data.draw(st.sampled_from(LEAVES))
    values = base.get_config().to_dict()
    change(values, path, data.draw(invalid(kind, allowed)))
    with self.assertRaises(ConfigError) as caught:
      make_config(values)
    message = str(caught.exception)
    self.assertStartsWith(message, ".".join(path) + " must be ")
    self.assertLess(len(message), 300)
    self.assertNotIn("\n", message)


# The detector


WIDTHS = st.floats(0.1, 100)


@st.composite
def curves(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
  """A curve of 20 to 30 points: noise, perhaps a jump, steps at random."""
  count = draw(st.integers(20, 30))
  rng = np.random.default_rng(draw(SEEDS))
  steps = np.cumsum(rng.integers(1, draw(st.integers(2, 50)), count))
  middle, width = steps[draw(st.integers(0, count - 1))], draw(WIDTHS)
  signal = draw(st.floats(0, 1)) * rng.normal(size=count)
  signal += draw(st.sampled_from([0.0, 3.0, -3.0])) / (
    1 + np.exp(-np.clip((steps - middle) / width, -100, 100))
  )
  return steps.astype(float), signal


STATUSES = ("detected", "in_progress", "before_start", "none", "ambiguous")


@pytest.mark.slow
class DetectorTest(absltest.TestCase):
  def check_ordered(self, found):
    times = [x for x in (found.onset, found.midpoint, found.completion) if x]
    for interval in times:
      self.assertLessEqual(interval.low, interval.estimate)
      self.assertLessEqual(interval.estimate, interval.high)
    estimates = [interval.estimate for interval in times]
    self.assertEqual(estimates, sorted(estimates))
    self.assertBetween(found.p_value, 0, 1)
    self.assertTrue(np.isfinite([found.amplitude, found.width]).all())

  @examples(8)
  @given(curves())
  def test_consistent(self, curve):
    found = detect(*curve)
    self.check_ordered(found)
    self.assertIn(found.status, STATUSES)
    if found.status == "detected":
      self.assertNotIn(None, (found.onset, found.midpoint, found.completion))
    if found.status == "in_progress":
      self.assertIsNone(found.completion)
    if found.status == "before_start":
      self.assertIsNone(found.onset)
    if found.status in STATUSES[:3]:
      self.assertNotEmpty(found.jumps)
    for jump in found.jumps:
      self.check_ordered(jump)
      self.assertIn(jump.status, STATUSES[:3])

  @examples(4)
  @given(curves(), st.sampled_from([-4.0, 0.125, 2.0**200]), FLOATS)
  def test_units_change_nothing_else(self, curve, scale, shift):
    steps, signal = curve
    shift = math.remainder(shift, 8.0)
    found = detect(steps, signal)
    scaled = detect(steps, scale * (signal + shift))
    self.assertEqual(scaled.status, found.status)
    self.assertAlmostEqual(
      scaled.amplitude, scale * found.amplitude, delta=1e-6 * abs(scale)
    )
    for name in ("onset", "midpoint", "completion"):
      one, other = getattr(found, name), getattr(scaled, name)
      if one and other:
        np.testing.assert_allclose(other, one, rtol=1e-4)
      else:
        self.assertIs(other, one)

  @examples(30)
  @given(
    arrays.arrays(float, st.integers(0, 24), elements=st.floats()),
    arrays.arrays(float, arrays.array_shapes(max_dims=2, max_side=24)),
  )
  def test_arrays_that_are_no_curve(self, signal, steps):
    assume(steps.shape != signal.shape or np.unique(steps).size < steps.size)
    with self.assertRaises(ValueError):
      detect(steps, signal)


# Readers

NUMBERS = arrays.arrays(
  np.float32,
  arrays.array_shapes(min_dims=0, max_dims=3, max_side=3),
  elements=st.floats(width=32, allow_infinity=False),
)
NAMED = st.dictionaries(st.sampled_from("abcdef"), NUMBERS, max_size=4)


@st.composite
def damaged(draw: st.DrawFn, raw: bytes) -> bytes:
  """A file with a few bytes changed, or cut off somewhere."""
  for _ in range(draw(st.integers(0, 4))):
    place = draw(st.integers(0, len(raw) - 1))
    raw = raw[:place] + draw(st.binary(max_size=3)) + raw[place + 1 :]
  return raw[: draw(st.integers(0, len(raw)) | st.just(len(raw)))]


class ReadersTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.root = Path(self.enterContext(tempfile.TemporaryDirectory()))

  def read(self, reader, path, raw):
    """What a reader makes of a file, or None if it refuses it."""
    path.write_bytes(raw)
    try:
      return reader(path)
    except ConfigError as error:
      self.assertIn(path.name, str(error))
    except OSError:
      pass
    return None

  @examples(20)
  @given(st.lists(st.tuples(st.integers(0, 2**31 - 1), NAMED), max_size=4))
  def test_history(self, records):
    path = self.root / "history.jsonl"
    path.write_bytes(b"")
    for step, values in records:
      history.append(path, step, "train", values, sync=False)
    got = history.read(path)
    self.assertEqual(
      [record["step"] for record in got], [s for s, _ in records]
    )
    for record, (_, values) in zip(got, records):
      self.assertEqual(record["values"].keys(), values.keys())
      for name, value in values.items():
        again = np.array(record["values"][name], np.float32)
        np.testing.assert_array_equal(again.reshape(value.shape), value)

  @examples(30)
  @given(st.data())
  def test_damaged_history(self, data):
    path = self.root / "history.jsonl"
    path.write_bytes(b"")
    for step in range(3):
      values = {"x": np.arange(3.0), "y": np.float32(0.1)}
      history.append(path, step, "train", values, sync=False)
    raw = data.draw(damaged(path.read_bytes()))
    # JSON has no checksum: another digit is another number.
    for record in self.read(history.read, path, raw) or []:
      self.assertBetween(record["step"], 0, 2**31 - 1)
      self.assertIn(record["kind"], history.KINDS)
      for value in record["values"].values():
        self.assertEqual(np.array(value, float).dtype, float)

  @examples(10)
  @given(st.dictionaries(st.text("ab.", min_size=1, max_size=5), NUMBERS))
  def test_vectors(self, named):
    tensors.write_arrays(self.root, 7, named)
    got = tensors.read_arrays(self.root, 7)
    self.assertEqual(got.keys(), named.keys())
    for name, value in named.items():
      np.testing.assert_array_equal(got[name], value)

  @examples(30)
  @given(st.data())
  def test_damaged_vectors_are_the_same_or_refused(self, data):
    want = {"a.x": np.arange(6.0).reshape(2, 3), "a.y": np.ones(2)}
    tensors.write_arrays(self.root, 7, want)
    (path,) = self.root.glob("*.npz")
    raw = data.draw(damaged(path.read_bytes()))
    got = self.read(lambda path: tensors.read_arrays(self.root, 7), path, raw)
    for name, value in (got or {}).items():
      np.testing.assert_array_equal(value, want[name])

  @examples(10)
  @given(NAMED)
  def test_tensors(self, named):
    path = self.root / "model.safetensors"
    tensors.write(path, named)
    self.assertEqual(
      tensors.read_shapes(path), {name: x.shape for name, x in named.items()}
    )
    got = tensors.read(path, {name: name for name in named})
    for name, value in named.items():
      np.testing.assert_array_equal(got[name], value)

  @examples(30)
  @given(st.data())
  def test_damaged_tensors(self, data):
    path = self.root / "model.safetensors"
    tensors.write(path, {"a": np.arange(6.0).reshape(2, 3), "b": np.ones(2)})
    raw = data.draw(damaged(path.read_bytes()))
    # The format has no checksum, but never more numbers than bytes.
    shapes = self.read(tensors.read_shapes, path, raw) or {}
    self.assertLessEqual(sum(map(math.prod, shapes.values())), len(raw))

  @examples(8)
  @given(
    st.lists(
      st.tuples(st.integers(0, 99), arrays.arrays(float, (2,))), min_size=1
    )
  )
  def test_dataset(self, measured):
    path = self.root / "results.nc"
    records = [
      {"step": step, "values": {"score": value}} for step, value in measured
    ]
    variables = [Variable("score", ("step", "head"), "score")]
    want = dataset.make_dataset(records, variables, {"head": ["a", "b"]}, {})
    dataset.write_dataset(want, path)
    got = dataset.read_dataset(path)
    self.assertTrue(got.identical(want))
    last = dict(measured)  # of two at a step the later one counts
    self.assertEqual(got.step.values.tolist(), sorted(last))
    for step, value in last.items():
      np.testing.assert_array_equal(got.score.sel(step=step), value)

  @examples(10)
  @given(st.data())
  def test_cut_off_dataset_is_refused(self, data):
    path = self.root / "results.nc"
    records = [{"step": 3, "values": {"score": [1.0, 2.0]}}]
    variables = [Variable("score", ("step", "head"), "score")]
    dataset.write_dataset(
      dataset.make_dataset(records, variables, {}, {}), path
    )
    raw = path.read_bytes()
    cut = data.draw(st.integers(0, len(raw) - 1))
    self.assertIsNone(self.read(dataset.read_dataset, path, raw[:cut]))


if __name__ == "__main__":
  absltest.main()
