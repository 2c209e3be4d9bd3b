"""More than one device: the same numbers, and everything where it should be."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from induction_jax import spectra
from induction_jax.config import ConfigError, MeshConfig, make_config
from induction_jax.devices import mesh
from tests.tiny import tiny_config


def tiny(**leaves):
  return make_config(tiny_config(**leaves).to_dict())


def layout_of(parts: int) -> spectra.VectorSharding:
  return spectra.VectorSharding(parts, shard=lambda x: x, gather=lambda x: x)


class ConfigTest(parameterized.TestCase):
  @parameterized.parameters(
    (dict(mesh__data=3), "mesh.data must divide train.batch_size"),
    (
      dict(mesh__data=4, behaviour__batch_size=6),
      r"mesh.data must divide behaviour.batch_size \(.*got data=4, "
      "batch_size=6",
    ),
    (
      dict(mesh__data=4, spectra__batch_size=6, spectra__micro_batch_size=0),
      "mesh.data must divide spectra.batch_size",
    ),
    (dict(mesh__data=4), "mesh.data must divide spectra.micro_batch_size"),
    (
      dict(mesh__params=2, spectra__exact=True),
      "mesh.params shares the Lanczos basis, which spectra.exact does without",
    ),
    (dict(mesh__data=0), "mesh.data must be at least 1, got 0"),
    (dict(mesh__params=0), "mesh.params must be at least 1, got 0"),
    (dict(mesh__seeds=-1), "mesh.seeds must be at least 0, got -1"),
  )
  def test_refuses(self, leaves, message):
    with self.assertRaisesRegex(ConfigError, f"^{message}"):
      tiny(**leaves)

  def test_micro_batches_that_are_planned_can_be_shared(self):
    # Divisors of 24 that fit: 3 for one device, 4 of the shares of two.
    batch = {"x": jax.ShapeDtypeStruct((24, 10), jnp.float32)}
    params = {"w": jax.ShapeDtypeStruct((10,), jnp.float32)}

    def make_operator(params, data):
      def loss(w, b):
        return jnp.mean(jnp.sin(b["x"] @ w["w"]))

      return spectra.hessian(loss, params, data)

    def plan(memory, shared_by):
      return spectra.plan_products(
        make_operator, params, batch, memory=memory, shared_by=shared_by
      )

    needed = plan(1, 1).bytes  # of one example
    self.assertEqual(plan(1, 1).micro_batch_size, 1)
    self.assertEqual(plan(1, 4).micro_batch_size, 4)
    self.assertLess(plan(1, 4).bytes, needed)
    with self.assertRaisesRegex(ValueError, "shared_by must divide the 24"):
      plan(1, 5)


class PlaceTest(parameterized.TestCase):
  """On the one device of this process."""

  @parameterized.parameters(
    (8, 8, 8), (8, 2, 8), (2, 8, 8), (2, 3, 6), (4, 6, 12), (1, 1, 1)
  )
  def test_least_common_multiple(self, data, params, needed):
    self.assertEqual(mesh.devices_per_seed(MeshConfig(data, 0, params)), needed)

  def test_too_few_devices(self):
    with self.assertRaisesRegex(
      ConfigError,
      "must fit the devices, of which there are 1, got mesh.data=2, "
      "mesh.params=3, which need 6",
    ):
      mesh.make_placement(MeshConfig(data=2, seeds=0, params=3))
    with self.assertRaisesRegex(ConfigError, "mesh.seeds=2, .*which need 2"):
      mesh.make_seeds_mesh(MeshConfig(data=1, seeds=2, params=1), 4)
    with self.assertRaisesRegex(ConfigError, r"\(--group\), got mesh.seeds=3"):
      mesh.make_seeds_mesh(MeshConfig(data=1, seeds=3, params=1), 4)

  def test_a_reader_needs_one_device(self):
    config = tiny(mesh__data=2, mesh__seeds=2)
    self.assertEqual(mesh.fit_to_devices(config).mesh, MeshConfig(1, 0, 1))
    self.assertEqual(mesh.on_one_device(config).mesh, MeshConfig(1, 0, 1))
    single = tiny()
    self.assertIs(mesh.fit_to_devices(single), single)


class LayoutTest(parameterized.TestCase):
  """Packed vectors with a padded last shard, on one device."""

  def setUp(self):
    super().setUp()
    key = jax.random.key(0)
    a = jax.random.normal(key, (23, 23)) / 5
    self.matrix = a + a.T
    self.like = {"a": jnp.zeros(9), "b": jnp.zeros((2, 7))}

  def operator(self, v):
    flat, unravel = jax.flatten_util.ravel_pytree(v)
    return unravel(jnp.dot(self.matrix, flat, precision="highest"))

  @parameterized.parameters(2, 5, 23, 30)
  def test_packs_and_unpacks(self, parts):
    layout, vector = layout_of(parts), jnp.arange(1.0, 24)
    packed = layout.pack(vector)
    self.assertEqual(packed.size % parts, 0)
    self.assertLess(packed.size, 23 + parts)
    self.assertEqual(jnp.sum(packed), jnp.sum(vector))
    np.testing.assert_array_equal(layout.unpack(packed, 23), vector)

  @parameterized.parameters(3, 5)
  def test_lanczos(self, parts):
    found = spectra.lanczos(
      self.operator,
      self.like,
      jax.random.key(1),
      k_top=2,
      k_bottom=2,
      max_order=60,
      max_basis=10,  # so that it restarts
      tolerance=1e-4,
      sharding=layout_of(parts),
    )
    exact = np.linalg.eigvalsh(np.float64(self.matrix))
    self.assertTrue(np.all(found.top.converged & found.bottom.converged))
    np.testing.assert_allclose(found.top.values, exact[:-3:-1], rtol=1e-5)
    np.testing.assert_allclose(found.bottom.values, exact[:2], rtol=1e-5)
    self.assertEqual(found.top.vectors["b"].shape, (2, 2, 7))
    norms = sum(
      jnp.sum(x.reshape(2, -1) ** 2, axis=1)
      for x in jax.tree.leaves(found.top.vectors)
    )
    np.testing.assert_allclose(norms, 1, rtol=1e-5)

  def test_a_space_that_is_exhausted_goes_on_within_the_parameters(self):
    # The identity: every product breaks down, and the next row is new.
    found = spectra.lanczos(
      lambda v: v,
      self.like,
      jax.random.key(1),
      k_top=5,
      k_bottom=0,
      max_order=20,
      tolerance=1e-5,
      sharding=layout_of(4),
    )
    np.testing.assert_allclose(found.top.values, 1, rtol=1e-5)
    flat = jnp.concatenate(
      [x.reshape(5, -1) for x in jax.tree.leaves(found.top.vectors)], axis=1
    )
    # Nothing of a vector is lost with what fills up the last part.
    np.testing.assert_allclose(flat @ flat.T, np.eye(5), atol=1e-5)

  def test_quadrature_and_blocks(self):
    key = jax.random.key(2)
    ids = {"a": np.zeros(1, int), "b": np.ones((1, 1), int)}
    partition = spectra.make_partition(("a", "b"), ids, self.like)
    found = []
    for layout in (spectra.UNSHARDED, layout_of(4)):
      rules = spectra.quadrature(
        self.operator, self.like, key, order=6, probes=2, sharding=layout
      )
      blocks = spectra.block_extremes(
        self.operator,
        self.like,
        partition,
        key,
        max_order=9,
        tolerance=1e-4,
        sharding=layout,
      )
      found.append((rules.nodes, rules.weights, blocks.top.values))
    for whole, parts in zip(*found):
      np.testing.assert_allclose(parts, whole, rtol=2e-4, atol=1e-5)


# In float32, of the largest of an array: sums are taken in another order.
TOLERANCES = {
  "products": 5e-6,
  "eigenvalues": 5e-6,
  "trained": 2e-5,  # 10 steps
  "seeds": 2e-5,
  "resumed": 1e-4,  # 24 steps
}


@pytest.mark.slow
class DevicesTest(absltest.TestCase):
  """Eight devices, in a process of their own: it is fixed at the start."""

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    count = "--xla_force_host_platform_device_count=8"
    flags = f"{os.environ['XLA_FLAGS']} {count}"
    done = subprocess.run(
      [sys.executable, "-m", "tests.mesh_script"],
      env=os.environ | {"XLA_FLAGS": flags},
      capture_output=True,
      text=True,
      check=False,
      timeout=600,
    )
    if done.returncode:
      raise AssertionError(done.stderr)
    cls.found = json.loads(done.stdout)

  def test_equals_one_device(self):
    for name, tolerance in TOLERANCES.items():
      with self.subTest(name):
        self.assertLess(self.found[name], tolerance)
        # To the bit it would be one device that did it all.
        self.assertGreater(self.found[name], 0)

  def test_basis_is_shared(self):
    self.assertTrue(self.found["basis in parts"])
    self.assertEqual(self.found["basis"], [16, 126])  # 8 x 126 >= 1001
    # It may take the memory of every device.
    self.assertEqual(self.found["basis rows"], [25, 51])


if __name__ == "__main__":
  absltest.main()
