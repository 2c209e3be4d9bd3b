"""Checkpoints: what is saved is restored to the bit, or known to be damaged."""

import contextlib
import errno
import hashlib
import io
import json
import logging
import shutil
import tempfile
from pathlib import Path
from unittest import mock

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from configs import quick
from induction_jax.config import ConfigError, make_config
from induction_jax.devices.mesh import make_seeds_mesh, seeds_sharding
from induction_jax.storage import (
  checkpoint_format,
  checkpoints,
  tensors,
)

CONFIG = make_config(quick.get_config().to_dict())


class DirectoryTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.root = Path(self.enter_context(tempfile.TemporaryDirectory()))


class CheckpointsTest(DirectoryTest):
  def test_failed_save_says_which_and_what_is_left(self):
    tree = {"x": jnp.arange(3.0)}
    checkpoints.save(self.root, 1, tree)

    def fail(*_):
      logging.getLogger("absl").error("a hundred lines")
      raise ValueError("No space left on device\nand much more")

    with (
      mock.patch.object(checkpoint_format.ocp.Checkpointer, "save", fail),
      self.assertNoLogs("absl"),
      self.assertRaisesRegex(
        OSError, r"/2 was not saved \(No space left on device\).*: steps 1$"
      ),
    ):
      checkpoints.save(self.root, 2, tree)
    chex.assert_trees_all_equal(checkpoints.restore(self.root, 1, tree), tree)

  def test_all_is_on_disk_before_it_has_its_name(self):
    forced = []

    def force(path):
      named = (self.root / "1").exists()
      forced.append((path, path.stat().st_ino, named))

    with mock.patch.object(checkpoints, "force_to_disk", force):
      checkpoints.save(self.root, 1, {"x": jnp.arange(3.0)})
    *before, (last, _, named) = forced
    self.assertEqual((last, named), (self.root, True))
    self.assertEqual({named for *_, named in before}, {False})
    # The same files, not copies of them.
    saved = [self.root / "1", *(self.root / "1").rglob("*")]
    self.assertEqual(
      {inode for _, inode, _ in before}, {path.stat().st_ino for path in saved}
    )

  def test_nothing_is_left_of_a_save_that_fails_half_way(self):
    full = OSError(errno.ENOSPC, "No space left on device")
    with (
      mock.patch.object(checkpoint_format, "write_manifest", side_effect=full),
      self.assertRaisesRegex(OSError, "1 was not saved .*: steps none$"),
    ):
      checkpoints.save(self.root, 1, {"x": jnp.arange(3.0)})
    self.assertEqual(list(self.root.iterdir()), [])

  def tree(self, scale=1.0):
    return {
      "x": scale * jnp.arange(6.0).reshape(2, 3),
      "key": jax.random.key(3),
      "count": jnp.int32(4),
      "empty": (),
    }

  def test_round_trip_with_typed_keys(self):
    directory = self.root / "checkpoints"
    checkpoints.save(directory, 5, self.tree())
    checkpoints.save(directory, 40, self.tree(2.0))
    self.assertEqual(checkpoints.steps(directory), [5, 40])
    got = checkpoints.restore(directory, 5, self.tree(0.0))
    chex.assert_trees_all_equal(got["x"], self.tree()["x"])
    self.assertEqual(got["count"].dtype, jnp.int32)
    self.assertEqual(
      float(jax.random.uniform(got["key"])),
      float(jax.random.uniform(jax.random.key(3))),
    )

  @parameterized.parameters(False, True)
  def test_a_run_that_goes_on_has_its_programs_already(self, committed):
    shared = seeds_sharding(make_seeds_mesh(CONFIG.mesh, 1))
    keys = jax.random.split(jax.random.key(0), 4)
    tree = jax.device_put(
      {"x": jnp.ones(4), "keys": keys}, shared if committed else None
    )
    program = jax.jit(
      lambda tree: tree["x"] + jax.vmap(jax.random.uniform)(tree["keys"])
    )
    program(tree)
    checkpoints.save(self.root, 5, tree)
    program(checkpoints.restore(self.root, 5, tree))
    self.assertEqual(program._cache_size(), 1)

  def test_a_save_takes_the_place_of_an_earlier_one(self):
    checkpoints.save(self.root, 5, self.tree())
    checkpoints.save(self.root, 5, self.tree(2.0))
    got = checkpoints.restore(self.root, 5, self.tree(0.0))
    chex.assert_trees_all_equal(got["x"], self.tree(2.0)["x"])
    self.assertEqual([path.name for path in self.root.iterdir()], ["5"])

  @parameterized.parameters(
    (Path, "rename", "3.saving", 0.0), (shutil, "rmtree", "3.before", 1.0)
  )
  def test_the_earlier_one_is_there_until_its_place_is_taken(
    self, module, name, killed_at, expected
  ):
    kept = self.root / "checkpoints"
    checkpoints.save(kept, 3, {"x": jnp.zeros(3)})
    original = getattr(module, name)

    class KilledError(BaseException):
      pass

    def kill(path, *arguments, **options):
      if Path(path).name == killed_at:
        raise KilledError
      return original(path, *arguments, **options)

    with (
      mock.patch.object(module, name, kill),
      self.assertRaises(KilledError),
    ):
      checkpoints.save(kept, 3, {"x": jnp.ones(3)})
    like = {"x": jnp.zeros(3)}
    found = checkpoints.restore_newest(kept, like, set_aside=True)
    np.testing.assert_array_equal(found["x"], np.full(3, expected))
    self.assertEqual([path.name for path in kept.iterdir()], ["3"])

  def test_a_directory_that_goes_during_a_save_is_missed(self):
    kept, elsewhere = self.root / "run" / "checkpoints", self.root / "elsewhere"
    kept.parent.mkdir()
    checkpoints.save(kept, 1, {"x": jnp.zeros(3)})
    write = checkpoint_format.write_manifest

    def move(path, *arguments):
      kept.parent.rename(elsewhere)
      path.mkdir(parents=True)  # as orbax does
      write(path, *arguments)

    with (
      mock.patch.object(checkpoint_format, "write_manifest", move),
      self.assertRaisesRegex(OSError, "was not saved .*has gone"),
    ):
      checkpoints.save(kept, 2, {"x": jnp.ones(3)})
    self.assertEqual(checkpoints.steps(elsewhere / "checkpoints"), [1])
    self.assertEqual(checkpoints.steps(kept), [])

  def test_names_that_only_look_like_steps(self):
    kept = self.root / "checkpoints"
    checkpoints.save(kept, 7, {"x": jnp.zeros(3)})
    shutil.copytree(kept / "7", kept / "009")
    self.assertEqual(checkpoints.steps(kept), [7])
    self.root.joinpath("eigenvectors").mkdir()
    for name in ("00000003", "00000010 (1)", "1a"):
      (self.root / "eigenvectors" / f"{name}.npz").touch()
    self.assertEqual(tensors.count_arrays(self.root / "eigenvectors", 20), 1)

  def test_empty_and_foreign_directories_are_passed_over(self):
    checkpoints.save(self.root, 5, self.tree())
    (self.root / "9").mkdir()
    (self.root / "notes").mkdir()
    (self.root / "7").write_text("a file")
    (self.root / "8.saving").mkdir()  # left by a crash
    self.assertEqual(checkpoints.steps(self.root), [5])
    self.newest(set_aside=False)
    self.assertLen(list(self.root.iterdir()), 5)
    _, told = self.newest(set_aside=True)
    self.assertEqual(told.count("is not a complete checkpoint; set aside"), 2)
    self.assertEqual(self.names(self.root), ["5", "notes", "set_aside"])
    self.assertEqual(self.names(self.root / "set_aside"), ["7", "9"])
    checkpoints.save(self.root, 9, self.tree(3.0))
    self.assertEqual(checkpoints.steps(self.root), [5, 9])

  @parameterized.parameters(
    ({"x": jnp.zeros((4, 3))}, r"x must be float32\[4, 3\], got float32\[2"),
    ({"x": jnp.zeros((2, 3), jnp.int32)}, r"x must be int32.* got float32"),
    ({"y": jnp.zeros(2)}, r"y must be float32\[2\], got nothing"),
  )
  def test_mismatch_is_an_error(self, change, message):
    checkpoints.save(self.root, 5, self.tree())
    with self.assertRaisesRegex(ValueError, message):
      checkpoints.restore(self.root, 5, self.tree() | change)

  def test_every_damage_is_found_and_the_one_before_it_used(self):
    for step, scale in (5, 1.0), (7, 2.0):
      checkpoints.save(self.root, step, self.tree(scale))
    files = [path for path in (self.root / "7").rglob("*") if path.is_file()]
    self.assertGreater(len(files), 5)
    for path in files:
      data = path.read_bytes()
      flipped = bytearray(data)
      flipped[len(data) // 2] ^= 1
      for bad in (flipped, data[: len(data) // 2], None):
        path.unlink() if bad is None else path.write_bytes(bad)
        with self.subTest(path.name, bad=bad and len(bad)):
          got, told = self.newest(set_aside=False)
          chex.assert_trees_all_equal(got["x"], self.tree()["x"])
          # Without a manifest it is no checkpoint at all.
          known = path.name != "manifest.json" or bad is not None
          self.assertEqual(told.count("\n"), known)
        path.write_bytes(data)
    got, told = self.newest(set_aside=False)
    self.assertEqual(told, "")
    chex.assert_trees_all_equal(got["x"], self.tree(2.0)["x"])

  def test_damaged_and_foreign_ones_are_set_aside_by_the_owner(self):
    checkpoints.save(self.root, 5, self.tree())
    checkpoints.save(self.root, 7, self.tree() | {"x": jnp.zeros((9, 9))})
    shutil.copytree(self.root / "5", self.root / "8")  # of another step
    got, told = self.newest(set_aside=True)
    chex.assert_trees_all_equal(got["x"], self.tree()["x"])
    self.assertEqual(told.count("\n"), 2)
    self.assertRegex(
      told, "manifest is for step 5.*; set aside as .*set_aside/8"
    )
    self.assertEqual(self.names(self.root), ["5", "set_aside"])
    # A second one of that step finds a place beside the first.
    checkpoints.save(self.root, 7, self.tree() | {"x": jnp.zeros(3)})
    self.newest(set_aside=True)
    self.assertEqual(self.names(self.root / "set_aside"), ["7", "7.1", "8"])

  def test_what_orbax_gives_back_is_compared_with_what_was_saved(self):
    checkpoints.save(self.root, 5, self.tree())
    restore = checkpoint_format.ocp.Checkpointer.restore

    def damaged(*arguments, **options):
      stored = restore(*arguments, **options)
      stored["leaves"][-1] ^= 1
      return stored

    with (
      mock.patch.object(checkpoint_format.ocp.Checkpointer, "restore", damaged),
      self.assertRaisesRegex(ConfigError, r"damaged \(x is not what was saved"),
    ):
      checkpoints.restore(self.root, 5, self.tree())

  def test_leaves_of_every_kind_come_back(self):
    tree = {
      "half": jnp.arange(3, dtype=jnp.bfloat16),
      "flag": jnp.array([True, False, True]),
      "scalar": jnp.float32(0.1),
      "none": jnp.zeros((0, 4)),
      "int": jnp.arange(5, dtype=jnp.int32).reshape(5, 1),
      "nan": jnp.array([jnp.nan, -0.0, jnp.inf]),
    }
    checkpoints.save(self.root, 1, tree)
    got = checkpoints.restore(self.root, 1, tree)
    for name, expected in tree.items():
      self.assertEqual(got[name].dtype, expected.dtype, name)
      self.assertEqual(got[name].shape, expected.shape, name)
      self.assertEqual(
        np.asarray(got[name]).tobytes(), np.asarray(expected).tobytes(), name
      )

  def test_leaves_that_are_not_wanted_are_verified_and_left_out(self):
    checkpoints.save(self.root, 5, self.tree())
    like = {"x": jnp.zeros((2, 3))}
    got = checkpoints.restore(self.root, 5, like)
    chex.assert_trees_all_equal(got, {"x": self.tree()["x"]})
    path = self.root / "5" / "manifest.json"
    values = json.loads(path.read_text())
    values["leaves"]["count"]["blake2b"] = "0" * 32
    path.write_text(json.dumps(values))
    with self.assertRaisesRegex(ConfigError, r"damaged \(count is not what"):
      checkpoints.restore(self.root, 5, like)

  @parameterized.parameters(
    ({"version": 3}, "unknown version 3"),
    ({"dtype": "object"}, "no array is object"),
    ({"dtype": "float23"}, "float23"),
    ({"dtype": "float64"}, "leaves must be uint8"),
    ({"shape": [2, -3]}, "no array is"),
    ({"shape": [2**20, 2**30]}, "its leaves must take at most half"),
  )
  def test_manifest_that_describes_something_else(self, change, message):
    checkpoints.save(self.root, 5, self.tree())
    path = self.root / "5" / "manifest.json"
    values = json.loads(path.read_text())
    if "version" in change:
      values |= change
    else:
      values["leaves"]["x"] |= change
    path.write_text(json.dumps(values))
    with self.assertRaisesRegex(checkpoint_format.CheckpointError, message):
      checkpoints.restore(self.root, 5, {"count": jnp.int32(0)})

  def test_an_array_that_the_manifest_does_not_describe(self):
    checkpoints.save(self.root, 5, self.tree())
    metadata = self.root / "5" / "_METADATA"
    values = json.loads(metadata.read_text())
    names = values["tree_metadata"]
    names["('more',)"] = json.loads(
      json.dumps(names["('leaves',)"]).replace("leaves", "more")
    )
    metadata.write_text(json.dumps(values))
    shutil.copytree(self.root / "5" / "leaves", self.root / "5" / "more")
    manifest = self.root / "5" / "manifest.json"
    values = json.loads(manifest.read_text())
    del values["files"]["_METADATA"]
    manifest.write_text(json.dumps(values))
    with self.assertRaisesRegex(ConfigError, "has an array more of unknown"):
      checkpoints.restore(self.root, 5, self.tree())

  def test_newest_step_that_verifies_in_every_directory(self):
    roots = [self.root / name for name in ("a", "b")]
    for scale, root in enumerate(roots):
      for step in (1, 2, 3):
        checkpoints.save(root, step, self.tree(float(scale)), note=step)
    checkpoints.save(roots[0], 9, self.tree())  # a crash before b's
    (roots[1] / "3" / "leaves" / "0").write_bytes(b"damaged")
    err = io.StringIO()

    def newest(directories, complain=lambda index, note: ""):
      return checkpoints.restore_newest_common(
        directories, self.tree(0.0), True, complain
      )

    with contextlib.redirect_stderr(err):
      got = newest(roots)
    self.assertRegex(err.getvalue(), "b/3 is damaged.*set aside")
    self.assertEqual(err.getvalue().count("\n"), 1)
    for scale, tree in enumerate(got):
      chex.assert_trees_all_equal(tree["x"], self.tree(float(scale))["x"])
    asked = []

    def complain(index, note):
      asked.append((index, note))
      return "records are gone" if (index, note) == (1, 2) else ""

    with contextlib.redirect_stderr(err):
      self.assertLen(newest(roots, complain), 2)
    self.assertEqual(asked, [(0, 2), (1, 2), (0, 1), (1, 1)])
    self.assertIn("b/2 is not used: records are gone", err.getvalue())
    self.assertIsNone(newest([roots[0], self.root / "none"]))

  def newest(self, set_aside):
    """What is restored, and what is said."""
    err = io.StringIO()
    with contextlib.redirect_stderr(err):
      got = checkpoints.restore_newest(self.root, self.tree(0.0), set_aside)
    return got, err.getvalue()

  def names(self, directory):
    return sorted(path.name for path in directory.iterdir())


class Version1Test(DirectoryTest):
  """Checkpoints of earlier versions: an array a leaf, seeds stacked."""

  def setUp(self):
    super().setUp()
    self.like = {"a": {"x": jnp.zeros(2)}, "key": jax.random.key(0)}
    self.own = self.root / "seed_0001" / "checkpoints"
    self.group = self.root / "groups" / "0000_0002" / "checkpoints"

  def tree(self, scale=1.0):
    x = scale * jnp.arange(6.0).reshape(3, 2)
    keys = jax.random.key_data(jax.random.split(jax.random.key(7), 3))
    return {"a": {"x": x}, "key": keys, "updates": jnp.zeros(3)}

  def save(self, directory, step, tree, note=None):
    """Writes a checkpoint as version 1 did."""
    path = directory / str(step)
    with checkpoint_format.ocp.StandardCheckpointer() as checkpointer:
      checkpointer.save(path.absolute(), tree)
    files = {
      str(file.relative_to(path)): self.checksum(file.read_bytes())
      for file in path.rglob("*")
      if file.is_file()
    }
    leaves = {
      name: {
        "shape": list(leaf.shape),
        "dtype": str(leaf.dtype),
        "blake2b": self.checksum(np.asarray(leaf).tobytes()),
      }
      for name, leaf in (
        ("a.x", tree["a"]["x"]),
        ("key", tree["key"]),
        ("updates", tree["updates"]),
      )
    }
    values = {"step": step, "files": files, "leaves": leaves, "note": note}
    (path / "manifest.json").write_text(json.dumps(values))

  def checksum(self, data):
    return hashlib.blake2b(data, digest_size=16).hexdigest()

  def write_part(self):
    self.own.mkdir(parents=True)
    stacked = "../../groups/0000_0002/checkpoints"
    values = {"stacked": stacked, "row": 1, "rows": 3}
    (self.own / "part.json").write_text(json.dumps(values))

  def test_an_array_a_leaf(self):
    one = jax.tree.map(lambda x: x[2], self.tree())
    self.save(self.own, 5, one)
    got = checkpoints.restore(self.own, 5, self.like)
    chex.assert_trees_all_equal(got["a"], one["a"])
    chex.assert_trees_all_equal(jax.random.key_data(got["key"]), one["key"])
    with self.assertRaisesRegex(ConfigError, "y must be float32.*got nothing"):
      checkpoints.restore(self.own, 5, {"y": jnp.zeros(2)})

  def test_every_damage_is_found(self):
    self.save(self.own, 5, jax.tree.map(lambda x: x[2], self.tree()))
    files = [x for x in (self.own / "5").rglob("*") if x.is_file()]
    self.assertGreater(len(files), 8)
    for path in files:
      data = path.read_bytes()
      flipped = bytearray(data)
      flipped[len(data) // 2] ^= 1
      for bad in (flipped, data[: len(data) // 2]):
        path.write_bytes(bad)
        with self.subTest(path.name), self.assertRaises(ConfigError):
          checkpoints.restore(self.own, 5, self.like)
      path.write_bytes(data)
    checkpoints.restore(self.own, 5, self.like)

  def test_a_seed_of_stacked_checkpoints(self):
    self.write_part()
    note = {"step": 4, "recorded": True, "records": ["a", "b", "c"]}
    self.save(self.group, 4, self.tree(), note)
    self.assertEqual(checkpoints.steps(self.own), [4])
    self.assertEqual([*checkpoints.verified_steps(self.own, [4])], [4])
    notes = []
    got = checkpoints.restore_newest(
      self.own, self.like, True, lambda note: notes.append(note) or ""
    )
    np.testing.assert_array_equal(got["a"]["x"], [2.0, 3.0])
    key = jax.random.split(jax.random.key(7), 3)[1]
    chex.assert_trees_all_equal(
      jax.random.key_data(got["key"]), jax.random.key_data(key)
    )
    self.assertEqual(notes, [note | {"records": "b"}])

  def test_a_resumed_seed_has_checkpoints_of_its_own(self):
    self.write_part()
    for step in (4, 8):
      self.save(self.group, step, self.tree())
    mine = {"a": {"x": jnp.full(2, 9.0)}, "key": jax.random.key(1)}
    for step in (8, 12):
      checkpoints.save(self.own, step, mine)
    self.assertEqual(checkpoints.steps(self.own), [4, 8, 12])
    got = checkpoints.restore(self.own, 8, self.like)
    chex.assert_trees_all_equal(got["a"], mine["a"])
    got = checkpoints.restore(self.own, 4, self.like)
    np.testing.assert_array_equal(got["a"]["x"], [2.0, 3.0])

  def test_damaged_stacked_checkpoints_stay_where_they_are(self):
    self.write_part()
    for step in (1, 2):
      self.save(self.group, step, self.tree())
    array = next((self.group / "2" / "d").iterdir())
    array.write_bytes(array.read_bytes()[:-1])
    with self.assertRaisesRegex(ConfigError, "checkpoints/2 is damaged"):
      checkpoints.restore(self.own, 2, self.like)
    err = io.StringIO()
    with contextlib.redirect_stderr(err):
      got = checkpoints.restore_newest(self.own, self.like, set_aside=True)
    np.testing.assert_array_equal(got["a"]["x"], [2.0, 3.0])
    self.assertIn("not used", err.getvalue())
    self.assertLen(list(self.group.iterdir()), 2)


class DiskTest(DirectoryTest):
  def free(self, count):
    found = mock.Mock(free=count)
    return mock.patch.object(
      checkpoints.shutil, "disk_usage", return_value=found
    )

  def test_what_fits_and_what_does_not(self):
    place = self.root / "checkpoints"
    each = 10**6
    err = io.StringIO()
    with contextlib.redirect_stderr(err):
      with self.free(8 * each):
        checkpoints.check_disk(place, 10**6, 8)
      self.assertEqual(err.getvalue(), "")
      with self.free(8 * each - 1):
        checkpoints.check_disk(place, 10**6, 8)
      self.assertRegex(err.getvalue(), "^warning: .* 8 checkpoints need")
      with self.free(3 * each - 1), self.assertRaisesRegex(OSError, "3 check"):
        checkpoints.check_disk(place, 10**6, 8)
    self.assertEqual(list(place.iterdir()), [])

  def test_a_full_disk_is_seen_before_a_save(self):
    tree = {"x": jnp.zeros(1000)}
    checkpoints.save(self.root, 1, tree)
    taken = sum(path.stat().st_size for path in self.root.rglob("*"))
    room = checkpoints.checkpoint_bytes(tree)
    self.assertBetween(room, taken, taken + 2**17)
    with self.free(room - 1), self.assertRaisesRegex(OSError, "No space left"):
      checkpoints.save(self.root, 2, tree)
    self.assertEqual([path.name for path in self.root.iterdir()], ["1"])

  def test_a_disk_that_gives_back_something_else(self):
    read = checkpoint_format.read_manifest

    def spoil(checkpoint):
      path = checkpoint / "leaves" / "0"
      path.write_bytes(b"x" + path.read_bytes()[1:])
      return read(checkpoint)

    with (
      mock.patch.object(checkpoint_format, "read_manifest", spoil),
      self.assertRaisesRegex(OSError, "does not give back what is written"),
    ):
      checkpoints.check_disk(self.root, 1, 1)

  def test_nothing_is_made_again_of_a_directory_that_has_gone(self):
    with self.assertRaisesRegex(OSError, "was not saved"):
      checkpoints.save(self.root / "gone" / "x", 1, {"x": jnp.zeros(2)})
    self.assertFalse((self.root / "gone").exists())


if __name__ == "__main__":
  absltest.main()
