"""Spectra and top tokens of QK and OV circuits against dense products."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from induction_jax import circuits
from induction_jax.circuits import reduction
from induction_jax.model import rotate
from tests.test_circuits import H, K, L, V, as_numpy, gaussian_weights


def dense_circuits(n, i):
  """The four circuits of head i = (layer, head), as numpy products."""
  ov, qk = n.w_v[i] @ n.w_o[i], n.w_q[i] @ n.w_k[i].T
  return {
    "ov": n.w_e @ ov @ n.w_u,
    "qk": n.w_e @ qk @ n.w_e.T,
    "ov_alone": ov,
    "qk_alone": qk,
  }


@jax.jit
def measure(weights):
  """Every measurement of the circuits, each [L, H, ...]."""
  eigen = {
    "ov": circuits.copying_matrices(weights),
    "qk": circuits.matching_matrices(weights),
    "ov_alone": circuits.ov_matrices(weights),
    "qk_alone": circuits.qk_matrices(weights),
    "k_composed": circuits.k_composed_matrices(weights),
    "virtual": circuits.virtual_copying_matrices(weights),
  }
  singular = circuits.triangles(weights)._asdict()
  fractions = {
    "ov": circuits.copied_fraction(weights, 2),
    "qk": circuits.matched_fraction(weights, 2),
  }
  return eigen, singular, fractions, circuits.composition(weights)


def numbers(weights):
  """Scores computed from `measure`; none depends on the basis of a head."""
  eigen, singular, fractions, composition = measure(weights)
  return {
    "scores": {
      k: circuits.eigenvalue_score(circuits.eigenvalues(m))
      for k, m in eigen.items()
    },
    "singular": {k: circuits.singular_values(m) for k, m in singular.items()},
    "fractions": fractions,
    "composition": composition._asdict(),
  }


class SpectrumTest(parameterized.TestCase):
  def test_equal_dense_circuits(self):
    weights = gaussian_weights(seed=2)
    eigen, singular, fractions, _ = measure(weights)
    n = as_numpy(weights)
    for i in np.ndindex(L, H):
      for name, dense in dense_circuits(n, i).items():
        want = np.linalg.svd(dense, compute_uv=False)
        got = circuits.singular_values(singular[name][i])
        np.testing.assert_allclose(got, want[:K], rtol=1e-4)
        values = circuits.eigenvalues(eigen[name][i])
        want = np.linalg.eigvals(dense)
        want = want[np.argsort(-np.abs(want))][:K]
        # Sums of powers do not depend on the order of the eigenvalues.
        for power in 1, 2, 3:
          np.testing.assert_allclose(
            np.sum(values**power),
            np.sum(want**power),
            atol=1e-4 * np.sum(np.abs(want) ** power),
          )
        if name in fractions:
          in_top = [
            np.sum(np.delete(entries, row) >= entries[row]) < 2
            for row, entries in enumerate(dense)
          ]
          self.assertAlmostEqual(
            float(fractions[name][i]), np.sum(in_top) / V, places=6
          )

  def test_each_lapack_call_gets_one_matrix(self):
    # Two batched LAPACK calls at once, or on two devices, deadlock on a CPU.
    lowered = jax.jit(circuits.triangles).lower(gaussian_weights(seed=2))
    calls = [x for x in lowered.as_text().splitlines() if "sgeqrf" in x]
    self.assertNotEmpty(calls)
    for call in calls:
      self.assertIn('num_batch_dims = "0"', call)

  def test_fewer_tokens_than_head_directions(self):
    weights = gaussian_weights(seed=3)
    few = weights._replace(w_e=weights.w_e[:3], w_u=weights.w_u[:, :3])
    n = as_numpy(few)
    got = circuits.singular_values(circuits.triangles(few).ov)
    self.assertEqual(got.shape, (L, H, K))
    want = np.linalg.svd(dense_circuits(n, (1, 2))["ov"], compute_uv=False)
    np.testing.assert_allclose(got[1, 2], [*want, 0], rtol=1e-4, atol=1e-4)

  def test_invariant_to_head_basis_and_head_order(self):
    weights = gaussian_weights(seed=4)
    want = numbers(weights)
    change = np.eye(K) + 0.3 * np.random.default_rng(0).normal(size=(K, K))
    back = np.linalg.inv(3 * change)
    turned = weights._replace(
      w_q=weights.w_q @ (3 * change),
      w_k=weights.w_k @ back.T,
      w_v=weights.w_v @ (3 * change),
      w_o=np.einsum("jk,lhkd->lhjd", back, weights.w_o),
    )
    turned = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), turned)
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3),
      numbers(turned),
      want,
    )
    order = np.array([2, 0, 1])
    permuted = weights._replace(
      **{w: getattr(weights, w)[:, order] for w in ("w_q", "w_k", "w_v", "w_o")}
    )
    got = numbers(permuted)
    pairs = {"k_composed", "virtual", "q", "k", "v"}
    for group, values in want.items():
      for name, value in values.items():
        moved = value[:, order]
        if name in pairs:
          moved = moved[:, :, :, order]
        np.testing.assert_allclose(
          got[group][name], moved, rtol=1e-3, atol=1e-4
        )

  def test_effective_rank(self):
    values = np.array(
      [[2.0, 2, 2, 2], [3, 0, 0, 0], [0, 0, 0, 0], [4, 2, 1, 1]]
    )
    shares = np.array([0.5, 0.25, 0.125, 0.125])
    last = np.exp(-sum(p * np.log(p) for p in shares))
    np.testing.assert_allclose(
      circuits.effective_rank(values), [4, 1, 0, last], rtol=1e-12
    )

  def test_paths_are_continuous(self):
    time = np.linspace(0, 1, 60)[:, None]
    # Two paths meet on the real axis and leave it as a conjugate pair; a third
    # is separate.
    paths = np.concatenate(
      [
        np.where(time < 0.5, 1 - time, 0.5 + 1j * (time - 0.5)),
        np.where(time < 0.5, time, 0.5 - 1j * (time - 0.5)),
        -1 + 2j * time,
      ],
      axis=1,
    )
    rng = np.random.default_rng(0)
    shuffled = np.stack([rng.permutation(row) for row in paths])
    got = circuits.track_eigenvalues(shuffled)
    np.testing.assert_array_equal(np.sort(got), np.sort(paths))
    self.assertLess(np.abs(np.diff(got, axis=0)).max(), 0.04)


class OwnTokenTest(absltest.TestCase):
  def test_in_blocks_of_rows(self):
    weights = gaussian_weights(seed=5)
    want = circuits.copied_fraction(weights, 3)
    with mock.patch.object(reduction, "ROWS", 4):  # does not divide V
      got = circuits.copied_fraction(weights, 3)
    np.testing.assert_array_equal(got, want)

  def test_a_circuit_of_zeros_copies_nothing(self):
    weights = jax.tree.map(jnp.zeros_like, gaussian_weights())
    self.assertEqual(float(circuits.copied_fraction(weights, 1).max()), 0)

  def test_null_of_random_circuits(self):
    keys = jax.random.split(jax.random.key(0), 300)
    like = gaussian_weights()

    @jax.jit
    def sample(key):
      weights = circuits.random_weights(key, like)
      return (
        circuits.copied_fraction(weights, 2),
        circuits.matched_fraction(weights, 2),
      )

    for fractions in jax.lax.map(sample, keys):
      of_nets = np.mean(fractions, axis=(1, 2))  # heads share embeddings
      error = of_nets.std() / np.sqrt(of_nets.size)
      self.assertLess(abs(of_nets.mean() - 2 / V), 4 * error)
      self.assertLess(error, 0.01)


class RotaryTest(absltest.TestCase):
  def test_turned_queries_score_as_at_that_offset(self):
    weights = gaussian_weights(seed=6)
    x, y = jax.random.normal(jax.random.key(1), (2, 12))
    offset = 5
    eye = jnp.eye(K)[:, None]
    turned = circuits.turn_queries(weights, rotate(eye, offset)[:, 0])
    got = (x @ turned.w_q[1, 2]) @ (y @ turned.w_k[1, 2])
    # As in the model: query and key each rotated by its own position.
    query = rotate((x @ weights.w_q[1, 2])[None], 9 + offset)
    key = rotate((y @ weights.w_k[1, 2])[None], 9)
    np.testing.assert_allclose(got, (query @ key.T)[0, 0], rtol=1e-4)
    same = circuits.turn_queries(weights, rotate(eye, 0)[:, 0])
    np.testing.assert_allclose(same.w_q, weights.w_q, rtol=1e-6)


class ShapesTest(parameterized.TestCase):
  @parameterized.parameters(
    ("w_k", (L, 1, 12, K), "as many heads as w_q, 3, got 1 in w_k"),
    ("w_v", (L, 1, 12, K), "as many heads as w_q, 3, got 1 in w_v"),
    ("w_o", (L, H, 12, K), "w_o must have shape"),
    ("w_u", (12, V + 1), "w_u must have shape"),
  )
  def test_unexpected_shapes_are_refused(self, name, shape, message):
    params = gaussian_weights()._asdict() | {name: jnp.zeros(shape)}
    with self.assertRaisesRegex(ValueError, message):
      circuits.fold_norms(params, "none")


if __name__ == "__main__":
  absltest.main()
