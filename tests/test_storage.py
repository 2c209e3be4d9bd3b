"""A run directory: history, results, lock, environment and config."""

import contextlib
import dataclasses
import errno
import hashlib
import io
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized

from configs import quick
from induction_jax.config import ConfigError, make_config
from induction_jax.storage import (
  dataset,
  environment,
  files,
  history,
  lock,
  tensors,
)
from induction_jax.storage.run_directory import (
  load_run,
  open_run,
)
from induction_jax.types import Variable

CONFIG = make_config(quick.get_config().to_dict())
VARIABLES = (
  Variable("loss", ("step",), "loss", "nats"),
  Variable("score", ("step", "layer", "head"), "score"),
  Variable("score_null", (), "null of score"),
)


LABELS = {"head": ["a", "b", "c"], "absent": [1]}
ATTRIBUTES = {"title": "a run", "config": "{}"}


class DirectoryTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.root = Path(self.enter_context(tempfile.TemporaryDirectory()))


class FilesTest(DirectoryTest):
  def setUp(self):
    super().setUp()
    self.path = self.root / "file"
    self.path.write_text("old")

  def test_on_an_error_the_file_is_what_it_was(self):
    with self.assertRaises(KeyboardInterrupt), files.replacing(self.path) as to:
      to.write_text("half of the n")
      self.assertEqual(self.path.read_text(), "old")
      raise KeyboardInterrupt
    self.assertEqual(self.path.read_text(), "old")
    self.assertEqual(list(self.root.iterdir()), [self.path])

  def test_bytes_are_on_disk_before_the_name_and_then_the_name(self):
    forced = []

    def force(path):
      text = path.read_text() if path.is_file() else None
      forced.append((path, text, self.path.read_text()))

    with mock.patch.object(files, "force_to_disk", force):
      files.replace_text(self.path, "new")
    (_, written, meanwhile), (last, _, finally_) = forced
    self.assertEqual((written, meanwhile), ("new", "old"))
    self.assertEqual((last, finally_), (self.root, "new"))


class TensorsTest(DirectoryTest):
  @parameterized.parameters(
    (lambda root, x: tensors.write(root / "a.safetensors", x),),
    (lambda root, x: tensors.write_arrays(root, 3, x),),
  )
  def test_bytes_are_on_disk_before_they_replace_the_earlier_file(self, write):
    write(self.root, {"x": np.zeros(3, np.float32)})
    (path,) = self.root.iterdir()
    forced = []

    def force(at):
      forced.append((at, path.read_bytes() if at.is_file() else None))

    before = path.read_bytes()
    with mock.patch.object(files, "force_to_disk", force):
      write(self.root, {"x": np.ones(3, np.float32)})
    (partial, meanwhile), (last, _) = forced
    self.assertEqual((partial.parent, last), (self.root, self.root))
    self.assertEqual(meanwhile, before)
    self.assertNotEqual(path.read_bytes(), before)
    self.assertEqual(list(self.root.iterdir()), [path])


class HistoryTest(DirectoryTest):
  def setUp(self):
    super().setUp()
    self.path = self.root / "history.jsonl"

  def test_float32_comes_back_exactly(self):
    values = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    history.append(self.path, 7, "measurement", {"x": values}, measurement="p")
    (record,) = history.read(self.path)
    np.testing.assert_array_equal(
      np.array(record["values"]["x"], np.float32), values
    )
    self.assertEqual((record["step"], record["measurement"]), (7, "p"))

  def test_nan_is_null_and_the_line_is_json(self):
    values = {"x": np.array([1.0, np.nan, np.inf]), "n": np.int32(3)}
    history.append(self.path, 0, "measurement", values)
    line = json.loads(self.path.read_text(), parse_constant=self.fail)
    self.assertEqual(line["values"], {"x": [1.0, None, None], "n": 3})

  def test_half_written_line_is_dropped(self):
    for step in range(3):
      history.append(self.path, step, "train", {"x": step})
    whole = self.path.read_text()
    for cut in range(1, len(whole.splitlines()[-1]) + 1):
      self.path.write_text(whole[:-cut])
      self.assertLen(history.read(self.path), 2)

  def test_truncate_keeps_whole_records_up_to_the_step(self):
    for step in (0, 5, 5, 10):
      history.append(self.path, step, "train", {"x": step})
    with self.path.open("a") as file:
      file.write('{"step": 3, "ki')
    history.truncate(self.path, 5)
    self.assertEqual([r["step"] for r in history.read(self.path)], [0, 5, 5])
    self.assertTrue(self.path.read_text().endswith("}\n"))

  def test_checksum_is_that_of_the_lines_that_truncate_keeps(self):
    for step in (0, 5, 5, 10):
      history.append(self.path, step, "train", {"x": step})
    with self.path.open("a") as file:
      file.write('{"kind": "train", "step": 3, "values": {}}\n{"step": 3, "k')
    found = history.checksum(self.path, 5)
    self.assertNotEqual(found, history.checksum(self.path, 4))
    history.truncate(self.path, 5)
    kept = self.path.read_bytes()
    self.assertEqual(kept.count(b"\n"), 4)
    expected = hashlib.blake2b(kept, digest_size=16).hexdigest()
    self.assertEqual(found, expected)
    self.path.write_text('{"step": x}\n')
    with self.assertRaisesRegex(ConfigError, "line 1, is not JSON"):
      history.checksum(self.path, 5)

  def test_a_line_is_added_after_the_last_whole_one(self):
    for cut in ("", "{", '{"step": 3, "ki'):
      whole = '{"step": 1, "kind": "train", "values": {}}\n'
      self.path.write_text(whole + cut)
      history.append(self.path, 2, "train", {})
      self.assertEqual([r["step"] for r in history.read(self.path)], [1, 2])

  def test_a_line_that_cannot_be_forced_to_disk_is_taken_back(self):
    history.append(self.path, 1, "train", {})
    full = OSError(errno.ENOSPC, "No space left on device")
    with (
      mock.patch.object(history.os, "fsync", side_effect=full),
      self.assertRaisesRegex(OSError, "jsonl cannot be added to: No space"),
    ):
      history.append(self.path, 2, "train", {})
    self.assertEqual([r["step"] for r in history.read(self.path)], [1])

  def test_a_line_of_which_only_a_part_fits_is_taken_back(self):
    history.append(self.path, 1, "train", {"loss": 1.0})
    before = self.path.read_bytes()
    allowed = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, allowed[1]))
    try:
      with self.assertRaisesRegex(OSError, "cannot be added to: No space"):
        history.append(self.path, 2, "train", {"loss": 1.0})
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, allowed)
    self.assertEqual(self.path.read_bytes(), before)

  def test_no_history_is_empty(self):
    self.assertEqual(history.read(self.path), [])

  def test_records_of_earlier_versions_are_read_in_the_present_form(self):
    values = '{"prefix_matching_probe_null": 0.03, "x": [1e-05, null]}'
    head = '{"step": 0, "kind": "constants", "probe": "p", "values": {"x": 1}}'
    old = f'{{"step": 5, "kind": "probe", "probe": "p", "values": {values}}}'
    self.path.write_text(f"{head}\n{old}\n")
    history.append(self.path, 6, "measurement", {"x": 1}, measurement="p")
    constants, first, second = history.read(self.path)
    self.assertEqual(constants["kind"], "constants")
    for record in (constants, first, second):
      self.assertEqual(record["measurement"], "p")
      self.assertNotIn("probe", record)
    self.assertEqual(first["kind"], "measurement")
    new = {"prefix_matching_back_to_back_null": 0.03, "x": [1e-5, None]}
    self.assertEqual(first["values"], new)

  def test_lines_of_earlier_versions_stay_what_they_were(self):
    old = '{"step": 5, "kind": "probe", "probe": "p", "values": {"x": 1}}\n'
    self.path.write_text(old)
    checksum = history.checksum(self.path, 5)
    self.assertEqual(
      checksum, hashlib.blake2b(old.encode(), digest_size=16).hexdigest()
    )
    history.append(self.path, 6, "train", {"x": 1})
    history.truncate(self.path, 5)
    self.assertEqual(self.path.read_text(), old)


class DatasetTest(DirectoryTest):
  def records(self):
    score = np.arange(6.0).reshape(2, 3)
    return [
      {"step": 0, "values": {"score_null": 0.5}},
      {"step": 0, "values": {"loss": 1.0, "score": score.tolist()}},
      {"step": 10, "values": {"loss": 0.5}},
      {"step": 20, "values": {"loss": None, "score": (score + 1).tolist()}},
    ]

  def test_joins_on_step_with_nan_between(self):
    got = dataset.make_dataset(self.records(), VARIABLES, LABELS, ATTRIBUTES)
    np.testing.assert_array_equal(got.step, [0, 10, 20])
    np.testing.assert_array_equal(got.loss, [1.0, 0.5, np.nan])
    self.assertEqual(got.score.dims, ("step", "layer", "head"))
    self.assertTrue(np.isnan(got.score[1]).all())
    np.testing.assert_array_equal(got.score[2], np.arange(6).reshape(2, 3) + 1)
    self.assertEqual(float(got.score_null), 0.5)
    self.assertEqual(list(got["head"].values), ["a", "b", "c"])
    self.assertNotIn("absent", got.coords)

  def test_of_two_records_the_later_counts_and_sizes_are_joined(self):
    records = [
      *self.records(),
      {"step": 20, "values": {"score": [[9.0, 8.0, 7.0, 6.0]] * 2}},
    ]
    got = dataset.make_dataset(records, VARIABLES, {}, {})
    np.testing.assert_array_equal(got.score[2, 0], [9, 8, 7, 6])
    np.testing.assert_array_equal(got.score[0, 0], [0, 1, 2, np.nan])

  def test_file_round_trip_keeps_labels(self):
    want = dataset.make_dataset(self.records(), VARIABLES, LABELS, ATTRIBUTES)
    path = self.root / "results.nc"
    dataset.write_dataset(want, path)
    got = dataset.read_dataset(path)
    self.assertTrue(got.identical(want))
    self.assertEqual(got.loss.attrs["units"], "nats")
    self.assertEqual([p.name for p in self.root.iterdir()], ["results.nc"])

  def test_a_full_disk_is_an_error_and_the_earlier_file_stays(self):
    path = self.root / "results.nc"
    small = dataset.make_dataset(self.records(), VARIABLES, LABELS, ATTRIBUTES)
    dataset.write_dataset(small, path)
    before = path.read_bytes()
    records = [{"step": i, "values": {"loss": i}} for i in range(10_000)]
    large = dataset.make_dataset(records, VARIABLES, LABELS, ATTRIBUTES)
    allowed = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, allowed[1]))
    try:
      with self.assertRaises(OSError):
        dataset.write_dataset(large, path)
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, allowed)
    self.assertEqual(path.read_bytes(), before)
    self.assertEqual(list(self.root.iterdir()), [path])

  def test_variables_of_earlier_versions_are_read_by_their_present_names(self):
    old = Variable("prefix_matching_probe", ("step",), "prefix matching")
    records = [{"step": 0, "values": {old.name: 0.5}}]
    path = self.root / "results.nc"
    dataset.write_dataset(dataset.make_dataset(records, [old], {}, {}), path)
    got = dataset.read_dataset(path)
    self.assertEqual(list(got), ["prefix_matching_back_to_back"])

  @parameterized.parameters(
    ({"other": 1.0}, "undeclared variable 'other'"),
    ({"loss": [1.0, 2.0]}, "must have dimensions"),
  )
  def test_refuses_what_is_not_declared(self, values, message):
    with self.assertRaisesRegex(ValueError, message):
      dataset.make_dataset([{"step": 0, "values": values}], VARIABLES, {}, {})


class LockTest(DirectoryTest):
  def test_one_at_a_time_and_none_left_behind(self):
    script = (
      "import os, sys\n"
      "from pathlib import Path\n"
      "from induction_jax.storage import lock\n"
      "with lock.hold(Path(sys.argv[1])):\n"
      "  print(os.getpid(), flush=True)\n"
      "  sys.stdin.read()\n"
    )
    with subprocess.Popen(
      [sys.executable, "-c", script, self.root],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    ) as holder:
      pid = holder.stdout.readline().strip()
      with self.assertRaisesRegex(ConfigError, f"in use by another.*{pid}"):
        open_run(self.root, CONFIG, resume=True)
      self.assertEqual([x.name for x in self.root.iterdir()], ["lock"])
      holder.kill()
    open_run(self.root, CONFIG, resume=True)

  def test_a_file_system_without_locks(self):
    error = OSError(errno.ENOLCK, "no locks")
    err = io.StringIO()
    with (
      mock.patch.object(lock.fcntl, "flock", side_effect=error),
      contextlib.redirect_stderr(err),
      lock.hold(self.root),
    ):
      self.assertIn("has no locks", err.getvalue())


class EnvironmentTest(DirectoryTest):
  def test_what_may_change_bits_and_what_may_not(self):
    for name in ("xla_flags", "device_kind", "threads", "key_implementation"):
      told = environment.differences({name: "a"}, {name: "b"})
      self.assertEqual(told, f"{name} a then, b now")
    self.assertEqual(environment.differences({"command": 1}, {}), "")

  def test_what_has_changed_is_said_and_kept(self):
    path = self.root / "environment.json"
    err = io.StringIO()
    with contextlib.redirect_stderr(err):
      environment.note_environment(path)
      first = files.read_json(path)
      first["command"] = ["another"]  # changes no bits
      files.write_json(path, first)
      environment.note_environment(path)
      self.assertEqual((err.getvalue(), files.read_json(path)), ("", first))
      first["packages"]["jax"] = "0.0.1"
      files.write_json(path, first)
      environment.note_environment(path)
      environment.note_environment(path)
    stored = files.read_json(path)
    self.assertEqual(err.getvalue().count("\n"), 1)
    self.assertIn("warning: jax 0.0.1 then, ", err.getvalue())
    self.assertLen(stored["resumed"], 1)
    self.assertEqual(stored["packages"], first["packages"])
    self.assertEqual(environment.changed_environment(path), "")
    for name in ("xla_flags", "threads", "key_implementation", "code"):
      self.assertIn(name, stored)


class RunDirectoryTest(DirectoryTest):
  def longer(self, config=CONFIG, steps=4000):
    train = dataclasses.replace(config.train, num_steps=steps)
    return dataclasses.replace(config, train=train)

  def test_config_round_trip(self):
    open_run(self.root / "a", CONFIG, resume=True)
    _, stored = load_run(self.root / "a")
    self.assertEqual(stored, CONFIG)
    environment = json.loads((self.root / "a/environment.json").read_text())
    self.assertIn("jax", environment["packages"])

  def test_another_config_is_refused_and_nothing_changes(self):
    open_run(self.root / "a", CONFIG, resume=True)
    before = {p: p.read_bytes() for p in (self.root / "a").iterdir()}
    other = dataclasses.replace(CONFIG, seed=1)
    with self.assertRaisesRegex(ConfigError, "differs in seed"):
      open_run(self.root / "a", other, resume=True)
    after = {p: p.read_bytes() for p in (self.root / "a").iterdir()}
    self.assertEqual(before, after)

  def test_a_run_may_grow_but_not_shrink(self):
    open_run(self.root / "a", CONFIG, resume=True)
    open_run(self.root / "a", self.longer(), resume=True)
    with self.assertRaisesRegex(ConfigError, "differs in train.num_steps"):
      open_run(self.root / "a", CONFIG, resume=True)

  def test_a_run_on_cosine_may_not_grow(self):
    optim = dataclasses.replace(CONFIG.optim, schedule="cosine")
    config = dataclasses.replace(CONFIG, optim=optim)
    open_run(self.root / "a", config, resume=True)
    with self.assertRaisesRegex(ConfigError, "train.num_steps"):
      open_run(self.root / "a", self.longer(config), resume=True)

  def test_noresume_refuses_an_existing_run(self):
    open_run(self.root / "a", CONFIG, resume=False)
    with self.assertRaisesRegex(ConfigError, "already holds a run"):
      open_run(self.root / "a", CONFIG, resume=False)

  def test_foreign_directory_and_file_are_refused(self):
    (self.root / "a").mkdir()
    (self.root / "a" / "thesis.tex").write_text("x")
    with self.assertRaisesRegex(ConfigError, "is not empty"):
      open_run(self.root / "a", CONFIG, resume=True)
    self.assertLen(list((self.root / "a").iterdir()), 1)
    with self.assertRaisesRegex(ConfigError, "is not a directory"):
      open_run(self.root / "a" / "thesis.tex", CONFIG, resume=True)

  def test_no_run_and_broken_config(self):
    with self.assertRaisesRegex(ConfigError, "holds no run"):
      load_run(self.root)
    (self.root / "config.json").write_text("{")
    with self.assertRaisesRegex(ConfigError, "is not JSON"):
      load_run(self.root)


if __name__ == "__main__":
  absltest.main()
