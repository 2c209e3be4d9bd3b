"""Files that are damaged or made to harm: refused in one line, nothing run."""

import contextlib
import dataclasses
import io
import json
import os
import tempfile
import zipfile
from pathlib import Path
from unittest import mock

import h5py
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from configs import quick
from induction_jax import exchange
from induction_jax.commands import command_line
from induction_jax.config import ConfigError, make_config
from induction_jax.devices import limits
from induction_jax.run.experiment import make_pure_experiment
from induction_jax.run.log import read_divergence
from induction_jax.storage import (
  checkpoint_format,
  checkpoints,
  dataset,
  files,
  history,
  lock,
  tensors,
)
from induction_jax.storage.run_directory import (
  RunDirectory,
  load_run,
  open_run,
  read_cost,
)
from induction_jax.storage.sweep_directory import (
  SweepPlan,
  open_sweep,
  read_plan,
)
from induction_jax.training.memory import least_bytes
from induction_jax.types import Variable

CONFIG = make_config(quick.get_config().to_dict())
SCORE = Variable("score", ("step", "head"), "score")


class HostileTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.root = Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.outside = self.root / "outside"
    self.outside.mkdir()

  def little_memory(self, size):
    return mock.patch.object(limits, "memory_bytes", return_value=2 * size)


class DocumentsTest(HostileTest):
  @parameterized.parameters(
    (b"", "is not JSON"),
    (b"[" * 100_000, "is not JSON"),
    (b'{"a": NaN}', "NaN is not a JSON number"),
    (b'{"a": -Infinity}', "-Infinity is not a JSON"),
    (b'{"a": 1, "a": 2}', "a name occurs twice"),
    (b"1" * 5000, "is not JSON"),
    (b"\xef\xbb\xbf{}", "is not JSON"),
    ("{}".encode("utf-16"), "is not UTF-8"),
  )
  def test_json_that_is_none(self, raw, message):
    path = self.root / "config.json"
    path.write_bytes(raw)
    with self.assertRaisesRegex(ConfigError, message):
      files.read_json(path)

  def test_what_is_no_file(self):
    os.mkfifo(self.root / "pipe")  # would wait for a writer forever
    for name in ("pipe", "outside"):
      with self.assertRaisesRegex(ConfigError, f"{name} is not a file"):
        files.read_text(self.root / name)

  def test_size_comes_before_reading(self):
    path = self.root / "history.jsonl"
    path.write_text("x" * 100)
    with self.little_memory(100 * files.PARSED_BYTES):
      self.assertLen(files.read_text(path), 100)
    with (
      self.little_memory(100 * files.PARSED_BYTES - 1),
      self.assertRaisesRegex(ConfigError, "history.jsonl, parsed, must take"),
    ):
      files.read_text(path)

  @parameterized.parameters(
    ({"wall_seconds": "1"}, "wall_seconds must be a whole number or a number"),
    ({"wall_seconds": True}, "wall_seconds must be"),
    ({"wall_seconds": -1}, "must be seconds, got -1"),
    ({"wall_seconds": 10**400}, "must be seconds, got 1000"),
    ([1], "must be an object"),
  )
  def test_cost(self, values, message):
    path = self.root / "cost.json"
    path.write_text(json.dumps(values))
    with self.assertRaisesRegex(ConfigError, message):
      read_cost(path)

  def test_divergence(self):
    run = RunDirectory(self.root)
    self.assertIsNone(read_divergence(run))
    note = {"step": 3, "noticed": 4, "reason": "loss"}
    for name in note:
      run.diverged.write_text(json.dumps(note | {name: [1]}))
      with self.assertRaisesRegex(ConfigError, f"{name} must be"):
        read_divergence(run)

  def test_an_error_is_one_line_that_a_terminal_survives(self):
    for error, status in (
      (ConfigError("a\nb\x1b[31m"), 2),
      (MemoryError("c\nd\x1b"), 1),
    ):
      fail = mock.Mock(side_effect=error)
      told = io.StringIO()
      with (
        contextlib.redirect_stderr(told),
        self.assertRaises(SystemExit) as left,
      ):
        command_line.run_main(fail)
      self.assertEqual(left.exception.code, status)
      self.assertRegex(told.getvalue(), r"\Aerror: [^\n\x1b]+\n\Z")


class LinksTest(HostileTest):
  def setUp(self):
    super().setUp()
    self.run_root = self.root / "run"
    open_run(self.run_root, CONFIG, resume=True)
    (self.outside / "secret").write_text("{}\n")

  @parameterized.parameters(
    ("history.jsonl", "secret"),
    ("results.nc.partial", "not_there"),
    ("figures", "."),
    ("checkpoints/5", "."),
    ("eigenvectors/zoomed", "../outside"),
  )
  def test_no_link_leads_outside(self, name, target):
    link = self.run_root / name
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(self.outside / target)
    before = sorted(self.root.rglob("*"))
    for refuse in (
      lambda: load_run(self.run_root),
      lambda: open_run(self.run_root, CONFIG, resume=True),
    ):
      with self.assertRaisesRegex(ConfigError, f"{name} leads outside"):
        refuse()
    self.assertEqual(sorted(self.root.rglob("*")), before)

  def test_a_link_is_no_lock(self):
    before = (self.run_root / "config.json").read_text()
    (self.run_root / lock.NAME).unlink()
    (self.run_root / lock.NAME).symlink_to("config.json")
    with self.assertRaisesRegex(ConfigError, "lock must be a file"):
      open_run(self.run_root, CONFIG, resume=True)
    self.assertEqual((self.run_root / "config.json").read_text(), before)

  def test_links_that_are_taken(self):
    (self.run_root / "newest").symlink_to("config.json")
    (self.run_root / "round").symlink_to("round")
    (self.root / "run2").symlink_to(self.run_root)
    self.assertEqual(load_run(self.root / "run2")[1], CONFIG)

  def test_a_neighbour_with_the_same_beginning_is_outside(self):
    (self.root / "run2").mkdir()
    (self.run_root / "figures").symlink_to("../run2")
    with self.assertRaisesRegex(ConfigError, "leads outside"):
      load_run(self.run_root)

  def test_a_pipe_is_refused(self):
    (self.run_root / "checkpoints").mkdir()
    os.mkfifo(self.run_root / "checkpoints" / "pipe")
    with self.assertRaisesRegex(ConfigError, "neither a file nor a directory"):
      load_run(self.run_root)

  @parameterized.parameters(
    ("../../../outside", "leads outside"),
    ("/etc", "leads outside"),
    ("a\0b", "is not a path"),
    ("../..", None),
    ("../../group", None),
  )
  def test_checkpoints_of_a_part(self, stacked, message):
    own = self.root / "sweep" / "seed_0000" / "checkpoints"
    own.mkdir(parents=True)
    (self.root / "sweep" / "group" / "3").mkdir(parents=True)
    part = {"stacked": stacked, "row": 0, "rows": 2}
    (own / "part.json").write_text(json.dumps(part))
    if message is None:
      self.assertEqual(checkpoints.steps(own), [])
      (self.root / "sweep" / "group" / "4").symlink_to(self.outside)
      message = "4 leads outside"
    with self.assertRaisesRegex(ConfigError, message):
      checkpoints.steps(own)

  def test_rows_of_a_part_are_counted_before_they_are_made(self):
    stacked, own = self.root / "group", self.root / "seed" / "checkpoints"
    own.mkdir(parents=True)
    checkpoints.save(stacked, 4, {"x": jnp.zeros((2, 3))})
    part = {"stacked": "../../group", "row": 0, "rows": 2**31 - 1}
    (own / "part.json").write_text(json.dumps(part))
    like = {"x": jnp.zeros(3)}
    with self.assertRaisesRegex(ConfigError, r"float32\[2147483647, 3"):
      checkpoints.restore(own, 4, like)
    (own / "part.json").write_text(json.dumps(part | {"rows": 2}))
    checkpoints.restore(own, 4, like)

  @parameterized.parameters(
    ({"row": 2}, "row must be below rows"),
    ({"row": -1}, "row must be in"),
    ({"rows": "2"}, "rows must be a whole number"),
    ({"stacked": None}, "stacked must be text"),
  )
  def test_part_that_is_none(self, change, message):
    part = {"stacked": "../../group", "row": 0, "rows": 2} | change
    (self.root / "part.json").write_text(json.dumps(part))
    with self.assertRaisesRegex(ConfigError, message):
      checkpoints.steps(self.root)

  @parameterized.parameters("../outside/secret", "/dev/zero")
  def test_a_manifest_names_no_file_outside(self, name):
    checkpoint = self.root / "5"
    checkpoint.mkdir()
    told = {"step": 5, "files": {name: "0"}, "leaves": {}}
    (checkpoint / checkpoint_format.MANIFEST).write_text(json.dumps(told))
    with self.assertRaisesRegex(ConfigError, "leads outside"):
      checkpoint_format.read_manifest(checkpoint)

  def test_sweep(self):
    root, plan = self.root / "sweep", SweepPlan(4, 0, 2, "map")
    open_sweep(root, CONFIG, plan)
    self.assertEqual(read_plan(root), plan)
    for change, message in (
      ({"group": 3}, "group must divide seeds"),
      ({"group": 0}, "group must divide seeds"),
      ({"mapping": 1}, "mapping must be text"),
    ):
      values = {"plan": plan._asdict() | change}
      (root / "sweep.json").write_text(json.dumps(values))
      with self.assertRaisesRegex(ConfigError, message):
        read_plan(root)
    (root / "seed_0001").symlink_to(self.outside)
    with self.assertRaisesRegex(ConfigError, "seed_0001 leads outside"):
      open_sweep(root, CONFIG, plan)


class HistoryTest(HostileTest):
  @parameterized.parameters(
    ([1], "must be an object"),
    ({"step": -1}, r"step must be in \[0, 2\^31\)"),
    ({"step": 1.5}, "step must be a whole number"),
    ({"step": 10**30}, "step must be in"),
    ({"kind": "other"}, "kind among constants"),
    ({"kind": "replay"}, "must have start"),
    ({"measurement": ["p"]}, "measurement must be text"),
    ({"values": [1]}, "values must be an object"),
    ({"zoom": {"from": 1, "to": [], "every": 1}}, "to must be a whole"),
    ({"values": {"x": "1"}}, "numbers, as many in each row, got x = '1'"),
    ({"values": {"x": [[1], [1, 2]]}}, "as many in each row"),
    ({"values": {"x": [1, "2", None]}}, "must hold numbers"),
    ({"values": {"x": [10**400]}}, "must hold numbers"),
    ({"values": {"x": True}}, "must hold numbers"),
    ({"values": {"x": {"y": 1}}}, "must hold numbers"),
  )
  def test_record_that_is_none(self, change, message):
    path = self.root / "history.jsonl"
    record = {"step": 1, "kind": "measurement", "values": {"x": 1}}
    record["measurement"] = "m"
    wrong = record | change if isinstance(change, dict) else change
    path.write_text("".join(json.dumps(x) + "\n" for x in (record, wrong)))
    with self.assertRaisesRegex(ConfigError, f"line 2.*{message}"):
      history.read(path)

  def test_one_large_record_is_not_multiplied_by_every_step(self):
    records = [{"step": 0, "values": {"score": [0.0] * 1000}}]
    records += [{"step": i, "values": {"score": [0.0]}} for i in range(1, 1000)]
    with (
      self.little_memory(8 * 1000 * 1000 - 1),
      self.assertRaisesRegex(ConfigError, "all that was measured must take"),
    ):
      dataset.make_dataset(records, [SCORE], {}, {})
    with self.little_memory(8 * 1000 * 1000 - 1):  # a constant is not joined
      constant = [SCORE._replace(dims=("head",))]
      dataset.make_dataset(records, constant, {}, {})

  def test_sizes_that_differ(self):
    records = [{"step": 0, "values": {"score": [1.0], "other": [1.0, 2.0]}}]
    other = SCORE._replace(name="other")
    with self.assertRaisesRegex(ConfigError, "does not fit together"):
      dataset.make_dataset(records, [SCORE, other], {}, {})


class ArraysTest(HostileTest):
  @parameterized.parameters(
    "external_link", "external", "virtual", "soft", "group", "packed", "list"
  )
  def test_results_of_more_than_plain_arrays(self, kind):
    secret, path = self.outside / "secret.h5", self.root / "results.nc"
    with h5py.File(secret, "w") as file:
      file["secret"] = np.arange(5.0)
    layout = h5py.VirtualLayout(shape=(5,), dtype="f8")
    layout[:] = h5py.VirtualSource(str(secret), "secret", shape=(5,))
    with h5py.File(path, "w") as file:
      file["fine"] = np.arange(3.0)
      if kind == "external_link":
        file["x"] = h5py.ExternalLink(str(secret), "/secret")
      elif kind == "external":
        raw = [(str(secret), 0, 40)]
        file.create_dataset("x", shape=(5,), dtype="f8", external=raw)
      elif kind == "virtual":
        file.create_virtual_dataset("x", layout)
      elif kind == "soft":
        file["x"] = h5py.SoftLink("/fine")
      elif kind == "group":
        file.create_group("x")["again"] = file["/"]
      elif kind == "packed":
        file.create_dataset("x", data=np.zeros(9), compression="gzip")
      else:
        file.create_dataset("x", (2,), dtype=h5py.vlen_dtype("f8"))
    with self.assertRaisesRegex(ConfigError, "plain arrays only, got 'x'"):
      dataset.read_dataset(path)

  @parameterized.parameters((10**13, 100), (10, 10**9))
  def test_results_larger_than_their_file(self, size, chunk):
    path = self.root / "results.nc"
    with h5py.File(path, "w") as file:
      file.create_dataset("x", (size,), "f8", chunks=(chunk,), maxshape=(None,))
    with (
      self.little_memory(10**9),
      self.assertRaisesRegex(ConfigError, "results.nc must take at most"),
    ):
      dataset.read_dataset(path)

  def test_one_text_in_many_places(self):
    path = self.root / "results.nc"
    for attribute, message in (
      (False, "labels of at most"),
      (True, "one text"),
    ):
      with h5py.File(path, "w") as file:
        x = file.create_dataset("x", data=["a" * 2000, "b"])
        if attribute:
          x.attrs["many"] = ["a", "b"]
      with self.assertRaisesRegex(ConfigError, message):
        dataset.read_dataset(path)

  def write_vectors(self, content, packing=zipfile.ZIP_STORED):
    with zipfile.ZipFile(self.root / "00000007.npz", "w", packing) as archive:
      archive.writestr("a.npy", content)

  def npy(self, shape, descr="<f4", data=b""):
    file = io.BytesIO()
    header = {"shape": shape, "fortran_order": False, "descr": descr}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + data

  def test_eigenvectors_run_no_code(self):
    class Evil:
      def __reduce__(self):
        return (Path.touch, (marker,))

    marker, file = self.root / "ran", io.BytesIO()
    np.lib.format.write_array(file, np.array([Evil()], object))
    np.load(io.BytesIO(file.getvalue()), allow_pickle=True)
    self.assertTrue(marker.exists())  # it would
    marker.unlink()
    self.write_vectors(file.getvalue())
    with self.assertRaisesRegex(ConfigError, "is not float32"):
      tensors.read_arrays(self.root, 7)
    self.assertFalse(marker.exists())

  @parameterized.parameters(
    ((10**13,), b"1234", "cannot reshape"),
    ((2, -1), b"123", "buffer size"),
    ((2,), b"1234", "cannot reshape"),
  )
  def test_eigenvectors_of_another_size(self, shape, data, message):
    self.write_vectors(self.npy(shape, data=data))
    with self.assertRaisesRegex(ConfigError, message):
      tensors.read_arrays(self.root, 7)

  def test_eigenvectors_that_unpack_to_more(self):
    data = self.npy((10**6,), data=bytes(4 * 10**6))
    self.write_vectors(data, zipfile.ZIP_DEFLATED)
    with self.assertRaisesRegex(ConfigError, "larger than the archive"):
      tensors.read_arrays(self.root, 7)

  def test_weights_larger_than_may_be(self):
    path = self.root / "model.safetensors"
    tensors.write(path, {"a": np.zeros(1000, np.float32)})
    with (
      self.little_memory(4000),
      self.assertRaisesRegex(ConfigError, "model.safetensors must take"),
    ):
      tensors.read(path, {"a": "a"})

  def test_a_billion_layers(self):
    config = dataclasses.replace(CONFIG.model, n_layers=2**31 - 1)
    path = self.root / "model.json"
    settings = exchange.settings_of(exchange.Architecture(config, 3, 4))
    path.write_text(json.dumps(settings))
    with self.assertRaisesRegex(ConfigError, "at most 10000 layers, got 2147"):
      exchange.read_model(self.root / "model.safetensors", path)


class SizesTest(HostileTest):
  @parameterized.parameters(
    "task.vocab_size",
    "task.seq_length",
    "model.d_model",
    "model.d_mlp",
    "model.n_layers",
    "train.batch_size",
    "spectra.track_top_k_eigenvalues",
  )
  def test_a_config_that_no_machine_holds(self, leaf):
    values = quick.get_config().to_dict()
    section, name = leaf.split(".")
    values["spectra"]["max_order"] = 2**31 - 2
    values[section][name] = 2**29
    with self.assertRaisesRegex(ConfigError, "this config must take at most"):
      make_pure_experiment(make_config(values))

  def test_the_largest_integers_do_not_overflow(self):
    values = quick.get_config().to_dict()
    values["task"]["vocab_size"] = values["task"]["seq_length"] = 2**31 - 1
    values["model"] |= {"n_layers": 2**31 - 1, "position": "learned"}
    with self.assertRaisesRegex(ConfigError, "got more than a million GiB"):
      make_pure_experiment(make_config(values))

  def test_every_config_here_is_small(self):
    self.assertLess(least_bytes(CONFIG), 2**26)


if __name__ == "__main__":
  absltest.main()
