"""Curvature measurements against dense Hessians, and the measure command."""

import json
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from jax.flatten_util import ravel_pytree

from induction_jax import measure, spectra, visualize
from induction_jax.config import make_config
from induction_jax.measurements import Inputs, all_variables
from induction_jax.measurements.curvature import make_curvature
from induction_jax.measurements.density import EIGENVALUES, PLACES
from induction_jax.measurements.partition import partition_by_circuit
from induction_jax.model import losses
from induction_jax.run.experiment import make_experiment
from induction_jax.run.results import write_results
from induction_jax.run.snapshots import init_snapshot
from induction_jax.storage import checkpoints, dataset, history, tensors
from induction_jax.storage.run_directory import open_run
from induction_jax.training.step import make_loss
from tests.entry_point import call
from tests.tiny import EARLIER, run_in, tiny_config


class PartitionTest(absltest.TestCase):
  def test_blocks_are_the_circuits(self):
    shapes = {
      "w_q": (2, 2, 4, 2),
      "w_k": (2, 2, 4, 2),
      "w_v": (2, 2, 4, 2),
      "w_o": (2, 2, 2, 4),
      "w_e": (5, 4),
      "w_pos": (3, 4),
      "w_u": (4, 5),
      "w_in": (2, 4, 3),
      "w_out": (2, 3, 4),
      "norm_scale": (2, 4),
      "final_norm_scale": (4,),
    }
    params = {name: jnp.zeros(shape) for name, shape in shapes.items()}
    partition = partition_by_circuit(params)
    flat = ravel_pytree(params)[1](jnp.asarray(partition.ids, jnp.float32))
    found = {k: np.asarray(v).astype(int) for k, v in flat.items()}
    names = np.array(partition.names)
    for circuit, weights in ("qk", ("w_q", "w_k")), ("ov", ("w_v", "w_o")):
      for weight in weights:
        for layer in range(2):
          for head in range(2):
            block = set(names[found[weight][layer, head].ravel()])
            self.assertEqual(block, {f"{circuit} L{layer}H{head}"})
    for weight, block in (
      ("w_e", "embedding"),
      ("w_pos", "embedding"),
      ("w_u", "unembedding"),
      ("w_in", "mlp"),
      ("w_out", "mlp"),
      ("norm_scale", "norms"),
      ("final_norm_scale", "norms"),
    ):
      self.assertEqual(set(names[found[weight].ravel()]), {block})
    self.assertLen(names, 8 + 4)


PRODUCTS = "streamed, micro-batch of 2"


@pytest.mark.slow
class MeasureTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    values = tiny_config(
      train__num_steps=8,
      train__loss_tokens="predictable",
      checkpoint__interval=4,
      circuits__interval=0,
      ablation__interval=0,
      spectra__eigen_interval=4,
      spectra__gauss_newton_top_k=1,
      spectra__keep_eigenvectors=True,
      spectra__max_order=60,
      spectra__tolerance=1e-3,
      density__interval=4,
      density__order=40,
      blocks__interval=4,
    )
    cls.config = make_config(values.to_dict())
    cls.experiment = make_experiment(cls.config)
    root = Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
    cls.directory = open_run(root / "run", cls.config, resume=True)
    run_in(cls.directory, cls.experiment)
    cls.results = write_results(cls.experiment, cls.directory)
    cls.matrix, cls.partition = cls.dense_hessian(8)

  def test_every_declared_variable_is_recorded(self):
    declared = {
      v.name
      for v in all_variables(self.experiment.measurements)
      if not v.name.startswith(EARLIER)
    }
    self.assertSetEqual(set(self.results.data_vars), declared)
    due = self.results.block_norm.dropna("step", how="all").step
    np.testing.assert_array_equal(due, [0, 4, 8])

  @classmethod
  def dense_hessian(cls, step):
    """The dense Hessian of the run's curvature batch, and its blocks."""
    state, batches = cls.state(step)
    curvature = make_curvature(cls.config, cls.experiment.model)
    operator = curvature.hessian_at(state.params, batches)
    matrix = jax.jit(lambda: spectra.dense(operator, state.params))()
    return np.asarray(matrix, np.float64), curvature.partition

  def dense_gauss_newton(self, step):
    """J^T C J over the predictable tokens, in numpy from the Jacobian."""
    state, batches = self.state(step)
    batch = batches.curvature
    flat, unravel = ravel_pytree(state.params)

    def logits(flat):
      return self.experiment.model.apply(unravel(flat), batch.tokens)[0]

    jacobian = np.float64(jax.jit(jax.jacfwd(logits))(flat))  # [B, T, V, P]
    p = np.float64(jax.nn.softmax(logits(flat)))
    weights = np.float64(batch.predictable)
    weights /= weights.sum()
    mean = np.einsum("btv,btvp->btp", p, jacobian)
    centred = jacobian - mean[:, :, None]
    return np.einsum(
      "bt,btv,btvp,btvq->pq", weights, p, centred, centred, optimize=True
    )

  @classmethod
  def state(cls, step):
    like = init_snapshot(cls.experiment)
    state = checkpoints.restore(cls.directory.checkpoints, step, like).state
    return state, cls.experiment.draw(state.key)

  def test_equals_the_dense_hessian(self):
    matrix, partition = self.matrix, self.partition
    exact = np.linalg.eigvalsh(matrix)
    at = self.results.sel(step=8)
    scale = np.abs(exact).max()
    for end, values in (("top", exact[::-1]), ("bottom", exact)):
      got = at[f"{end}_eigenvalues"].values
      np.testing.assert_allclose(got, values[: len(got)], atol=2e-3 * scale)
      for b in range(len(partition.names)):
        inside = partition.ids == b
        block = np.linalg.eigvalsh(matrix[np.ix_(inside, inside)])
        want = block[-1] if end == "top" else block[0]
        # Blocks get few products, so the tolerance is loose.
        self.assertAlmostEqual(
          float(at[f"block_{end}"][b]), want, delta=0.02 * scale
        )
    for i, threshold in enumerate(at.threshold.values):
      for name, true in (
        ("count_above", (exact > threshold).sum()),
        ("count_below", (exact < -threshold).sum()),
      ):
        low, high = (float(at[f"{name}_{x}"][i]) for x in ("low", "high"))
        self.assertBetween(true, low - 1e-3, high + 1e-3)

  def test_the_gradient_is_of_the_curvature_batch(self):
    state, batches = self.state(8)
    weights = losses.make_weights(self.config.train.loss_tokens)
    loss = make_loss(self.experiment.model, weights)
    grad = jax.grad(loss)(state.params, batches.curvature)
    norm = np.linalg.norm(ravel_pytree(grad)[0])
    got = self.results.gradient_norm.sel(step=8)
    np.testing.assert_allclose(got, norm, rtol=1e-5)

  def test_split_equals_the_dense_parts(self):
    matrix = self.matrix
    gauss_newton = self.dense_gauss_newton(8)
    scale = np.abs(np.linalg.eigvalsh(matrix)).max()
    functional = np.linalg.eigvalsh(matrix - gauss_newton)
    for name, want in (
      ("gauss_newton_top", np.linalg.eigvalsh(gauss_newton)[-1]),
      ("functional_top", functional[-1]),
      ("functional_bottom", functional[0]),
    ):
      got = float(self.results[f"{name}_eigenvalues"].sel(step=8)[0])
      self.assertAlmostEqual(got, want, delta=2e-3 * scale)

  def test_a_run_with_the_preconditioned_bottom_can_be_read(self):
    values = {"preconditioned_bottom_eigenvalues": [-2.0, -1.0]}
    record = {"step": 8, "kind": "measurement", "values": values}
    declared = all_variables(self.experiment.measurements)
    found = dataset.make_dataset([record], declared, {}, {})
    np.testing.assert_array_equal(
      found.preconditioned_bottom_eigenvalues, [[-2, -1]]
    )

  def test_preconditioned_equals_dense(self):
    matrix = self.matrix
    state, _ = self.state(8)
    c = self.config.optim
    preconditioner = spectra.adam_preconditioner(
      state.opt_state, c.learning_rate, c.b1, c.b2, c.eps
    )
    d = np.float64(ravel_pytree(preconditioner.inverse_sqrt)[0])
    exact = np.linalg.eigvalsh(d[:, None] * matrix * d)
    got = self.results.preconditioned_top_eigenvalues.sel(step=8)
    np.testing.assert_allclose(
      got, exact[::-1][: got.size], atol=2e-3 * np.abs(exact).max()
    )

  def test_sizes_and_blocks_lie_within_their_errors(self):
    matrix, partition = self.matrix, self.partition
    at = self.results.sel(step=8)
    square = (matrix**2).sum()
    for name, true in (
      ("trace", np.trace(matrix)),
      ("square_frobenius", square),
      ("frobenius", square**0.5),
    ):
      error = float(at[f"{name}_se"])
      self.assertAlmostEqual(float(at[name]), true, delta=4 * error)
      self.assertGreater(error, 0)
    # The tracked pairs are counted, the rest estimated with 32 random
    # vectors of variance at most 2 ||A||_F^2 each.
    rest = np.linalg.eigvalsh(matrix)[2:-2]
    self.assertLess(float(at.trace_se), 1.3 * (2 * (rest**2).sum() / 32) ** 0.5)
    z = []
    for a in range(len(partition.names)):
      for b in range(len(partition.names)):
        block = matrix[np.ix_(partition.ids == a, partition.ids == b)]
        error = float(at.block_norm[a, b]) - np.linalg.norm(block)
        z.append(error / float(at.block_norm_se[a, b]))
    self.assertLess(np.sqrt(np.mean(np.square(z))), 3)
    self.assertGreater(np.sqrt(np.mean(np.square(z))), 0.2)

  def test_block_mass_equals_dense_eigenvectors(self):
    matrix, partition = self.matrix, self.partition
    vectors_of = np.linalg.eigh(matrix)[1]
    for end, column in (("top", -1), ("bottom", 0)):
      want = np.bincount(partition.ids, vectors_of[:, column] ** 2)
      got = self.results[f"{end}_block_mass"].sel(step=8)[0]
      np.testing.assert_allclose(got, want, atol=2e-2)
      self.assertEqual(list(got.block.values), list(partition.names))

  def test_density_integrates_to_one_on_its_grid(self):
    integral = np.trapezoid(self.results.density.dropna("step"), PLACES)
    np.testing.assert_allclose(integral, 1, atol=1e-3)
    np.testing.assert_array_equal(self.results.eigenvalue, EIGENVALUES)

  def test_parts_of_the_hessian_bound_it(self):
    top = self.results.top_eigenvalues[:, 0]
    parts = (
      self.results.gauss_newton_top_eigenvalues[:, 0]
      + self.results.functional_top_eigenvalues[:, 0]
    )
    measured = top.notnull() & parts.notnull()
    self.assertEqual(int(measured.sum()), 3)
    size = 60 * len(self.matrix) / 2**18
    self.assertEqual(
      self.results.attrs["hessian_products"],
      f"{PRODUCTS}; Lanczos basis of 60 vectors, {size:.3g} MiB",
    )
    # Weyl: the largest of a sum is at most the sum of the largest.
    self.assertTrue((top <= parts * 1.01)[measured].all())

  def test_eigenvector_files_hold_the_measured_ones(self):
    kept = tensors.read_arrays(self.directory.eigenvectors, 8)
    state, _ = self.state(8)
    for end in ("top", "bottom"):
      rows = {
        name.removeprefix(f"{end}."): value
        for name, value in kept.items()
        if name.startswith(f"{end}.")
      }
      self.assertEqual(
        jax.tree.map(lambda x: x.shape[1:], rows),
        jax.tree.map(np.shape, dict(state.params)),
      )
      flat = jax.vmap(lambda v: ravel_pytree(v)[0])(rows)
      np.testing.assert_allclose(flat @ flat.T, np.eye(2), atol=1e-5)
      matrix = self.matrix
      rayleigh = np.einsum("kp,pq,kq->k", flat, matrix, flat)
      values = self.results[f"{end}_eigenvalues"].sel(step=8)
      np.testing.assert_allclose(rayleigh, values, rtol=1e-3, atol=1e-3)

  def test_measured_again_equals_measured(self):
    before = self.directory.history.read_text()
    status, _, err = call(
      measure.main, self.directory.root, "--step=4", "--measurements=density"
    )
    self.assertEqual(status, 0, err)
    self.assertEqual(self.directory.history.read_text(), before)
    record = json.loads(self.directory.remeasured.read_text().splitlines()[-1])
    self.assertEqual((record["step"], record["measurement"]), (4, "density"))
    for name, value in record["values"].items():
      want = self.results[name].sel(step=4)
      np.testing.assert_array_equal(np.float64(value), want, name)

  def test_without_a_history_results_do_not_change(self):
    history = self.directory.history.read_text()
    before = self.directory.results.read_bytes()
    try:
      self.directory.history.unlink()
      status, _, err = call(visualize.main, self.directory.root)
      self.assertEqual((status, err.count("\n")), (2, 1))
      self.assertIn("holds no measurement", err)
      self.directory.history.write_text(history + "garbage\n")
      status, _, err = call(visualize.main, self.directory.root)
      self.assertEqual((status, err.count("\n")), (2, 1))
      self.assertRegex(err, "line [0-9]+, is not JSON")
    finally:
      self.directory.history.write_text(history)
    self.assertEqual(self.directory.results.read_bytes(), before)

  def test_other_settings_join_the_results(self):
    status, _, err = call(
      measure.main,
      self.directory.root,
      "--step=8",
      "--config.spectra.exact=true",
      "--config.spectra.track_top_k_eigenvalues=4",
      "--measurements=spectra,density",
      # Fewer programs to compile.
      "--config.spectra.preconditioned_top_k=0",
      "--config.spectra.gauss_newton_top_k=0",
    )
    self.assertEqual(status, 0, err)
    joined = dataset.read_dataset(self.directory.results)
    self.assertEqual(joined.sizes["eig"], 4)
    self.assertTrue(np.isnan(joined.top_eigenvalues.sel(step=4)[2:]).all())
    self._assert_exact(joined.sel(step=8))
    # Measured alone, it has no overlap with a previous measurement.
    self.assertEqual(
      float(joined.top_overlap.sel(step=8)),
      float(self.results.top_overlap.sel(step=8)),
    )
    settings = json.loads(joined.attrs["remeasured"])[-1]["settings"]
    self.assertEqual(
      settings,
      {
        "spectra.exact": True,
        "spectra.track_top_k_eigenvalues": 4,
        "spectra.preconditioned_top_k": 0,
        "spectra.gauss_newton_top_k": 0,
        "hessian_products": f"{PRODUCTS}; dense matrix of {len(self.matrix)} "
        f"parameters, {self.matrix.size / 2**18:.3g} MiB",
      },
    )
    again = self.directory.eigenvectors / "remeasured"
    self.assertLen(tensors.read_arrays(again, 8)["top.w_e"], 4)
    self.assertLen(
      tensors.read_arrays(self.directory.eigenvectors, 8)["top.w_e"], 2
    )

  def _assert_exact(self, at):
    """Checks a dense measurement: its only error is rounding."""
    exact = np.linalg.eigvalsh(self.matrix)
    scale = np.abs(exact).max()
    np.testing.assert_allclose(
      at.top_eigenvalues, exact[::-1][:4], atol=1e-5 * scale
    )
    np.testing.assert_allclose(at.trace, exact.sum(), rtol=1e-4)
    np.testing.assert_allclose(at.square_frobenius, (exact**2).sum(), rtol=1e-4)
    for name in ("trace_se", "frobenius_se"):
      self.assertEqual(float(at[name]), 0)
    np.testing.assert_array_equal(at.density_se, 0)
    for i, threshold in enumerate(at.threshold.values):
      above = (exact > threshold).sum()
      low, high = at.count_above_low[i], at.count_above_high[i]
      self.assertBetween(above, float(low) - 1e-3, float(high) + 1e-3)
    self.assertAlmostEqual(float(at.count_above[-2]), (exact > 1).sum(), 2)

  @parameterized.parameters(
    ((), "nothing to measure"),
    (("--step=3", "--measurements=density"), "there are 0, 1, 2, 4, 8"),
    (("--measurements=spectre",), "must be some of"),
    (("--config.model.n_layers=3",), "another model"),
    (("--config.spectra.topk=3",), "unknown config key spectra.topk"),
    (("--config.density.order=1",), "density.order must be at least 2"),
    (("--config.spectra.max_basis=5",), "must exceed the number of eigenpairs"),
  )
  def test_mistakes(self, arguments, message):
    status, _, err = call(measure.main, self.directory.root, *arguments)
    self.assertEqual((status, err.count("\n")), (2, 1))
    self.assertIn(message, err)


@pytest.mark.slow
class AppliesTest(absltest.TestCase):
  def test_measurements_that_are_off_or_do_not_apply(self):
    values = tiny_config(
      task__name="bigram_trigger",
      model__n_layers=1,
      behaviour__batch_size=2,
      circuits__interval=0,
      ablation__interval=0,
      spectra__eigen_interval=0,
      spectra__batch_size=2,
      spectra__micro_batch_size=2,
    )
    config = make_config(values.to_dict())
    root = Path(self.enter_context(tempfile.TemporaryDirectory()))
    directory = open_run(root / "run", config, resume=True)
    # Writes the files of a run at step 0, without training it.
    experiment = make_experiment(config)
    snapshot = init_snapshot(experiment)
    checkpoints.save(directory.checkpoints, 0, snapshot)
    behaviour, state = experiment.measurements[0], snapshot.state
    inputs = Inputs(state, experiment.draw(state.key), {}, {})
    own = behaviour.finish(behaviour.measure(inputs))
    own |= behaviour.finish(behaviour.nulls(inputs))
    own["train_loss"] = np.float32(3)
    history.append(
      directory.history, 0, "measurement", own, measurement="behaviour"
    )
    # One without settings of its own, and one that was off in the run.
    flag = "--measurements=memory,circuits"
    status, _, err = call(measure.main, directory.root, flag)
    self.assertEqual(status, 0, err)
    results = dataset.read_dataset(directory.results)
    self.assertBetween(float(results.w_o2_recall.sel(step=0).max()), 0, 1)
    self.assertAlmostEqual(float(results.w_o2_recall_null), 1 / 11)
    self.assertTrue(np.isfinite(results.ov_copying.sel(step=0)).all())
    for name, message in (
      ("markov", "needs a run with task.name=markov, got bigram_trigger"),
      ("projection", "intervention.project=off or onto, got none"),
    ):
      status, _, err = call(
        measure.main, directory.root, f"--measurements={name}"
      )
      self.assertEqual((status, err.count("\n")), (2, 1))
      self.assertIn(message, err)


if __name__ == "__main__":
  absltest.main()
