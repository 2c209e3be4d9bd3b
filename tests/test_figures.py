"""Figures: labels, marks and values that a reader relies on."""

import doctest
import io
import tempfile
from pathlib import Path
from unittest import mock

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from absl.testing import absltest, parameterized
from matplotlib.figure import Figure

from induction_jax.measurements.density import EIGENVALUES
from induction_jax.report import figures, findings, style, task_figures
from induction_jax.report.ablation_figures import (
  KINDS,
  TOKENS,
  plot_ablation,
  plot_paths,
)
from induction_jax.report.behaviour_figures import plot_context
from induction_jax.report.circuit_figures import (
  plot_circuits,
  plot_compositions,
  plot_eigenvalues,
)
from induction_jax.report.curvature_figures import (
  LEAST_DENSITY,
  plot_blocks,
  plot_density,
)
from tests.test_findings import STEPS, found_in_induction, induction_results

# Drawing does not depend on the version of Python.
pytestmark = pytest.mark.slow


def with_circuits(results: xr.Dataset) -> xr.Dataset:
  """Adds circuits of two layers of two heads to results made by hand."""
  n, rng = len(STEPS), np.random.default_rng(1)
  per_head = ("step", "layer", "head")
  per_pair = (*per_head, "writer_layer", "writer_head")
  per_eigenvalue = (*per_head, "circuit_eig")
  pairs = rng.uniform(0.05, 0.3, (n, 2, 2, 2, 2))
  pairs[:, 0] = np.nan
  pairs[:, :, :, 1] = np.nan
  chance = np.where(np.isnan(pairs), np.nan, 0.5)
  # After the transition head L1H0 reads head L0H1.
  chance[STEPS > 410, 1, 0, 0, 1] = 0.001
  return results.assign(
    {
      "ov_copying": (per_head, rng.uniform(-1, 1, (n, 2, 2))),
      "qk_matching": (per_head, rng.uniform(-1, 1, (n, 2, 2))),
      "ov_copying_null_sd": ((), 0.1),
      "qk_matching_null_sd": ((), 0.1),
      "ov_copied_fraction": (per_head, rng.uniform(0, 1, (n, 2, 2))),
      "ov_copied_fraction_null": ((), 0.02),
      "k_composition_null": ((), 0.125),
      **{f"{x}_composition": (per_pair, pairs) for x in "qkv"},
      **{f"{x}_composition_p": (per_pair, chance) for x in "qkv"},
      "k_composed_matching": (per_pair, pairs),
      # Three in a hundred exceed the highest pair, so that none of four pairs
      # is significant.
      "k_composed_matching_null_samples": (
        "null_sample",
        np.linspace(-0.3, 0.309, 100),
      ),
      **{
        f"{circuit}_eigenvalues_{part}": (
          per_eigenvalue,
          rng.normal(size=(n, 2, 2, 3)),
        )
        for circuit in ("ov", "qk")
        for part in ("real", "imag")
      },
    }
  )


def titles(figure: Figure) -> list[str]:
  return [ax.get_title() for ax in figure.axes]


class CircuitsFigureTest(absltest.TestCase):
  def test_null_is_shaded_and_the_best_heads_are_named(self):
    results = with_circuits(induction_results())
    figure = plot_circuits(results, found_in_induction())
    plane, shares = figure.axes
    corners = [patch.get_extents() for patch in plane.patches]
    spans = plane.transData.inverted()
    wide, high = (spans.transform(corner) for corner in corners)
    np.testing.assert_allclose(wide[:, 0], [-0.2, 0.2])
    np.testing.assert_allclose(high[:, 1], [-0.2, 0.2])
    for ax in plane, shares:
      named = {text.get_text() for text in ax.texts}
      self.assertEqual(named, {"L0H1", "L1H0"})
    legend = [text.get_text() for text in shares.get_legend().get_texts()]
    self.assertEqual(legend, ["null 0.02"])
    plt.close(figure)

  def test_heads_that_end_together_have_names_apart(self):
    results = with_circuits(induction_results())
    for end in 0.02, 0.5, 1.0:
      for name in "ov_copying", "qk_matching", "ov_copied_fraction":
        results[name][-1] = end
        results[name][-1, 1, 0] = end - 0.02
      with style.paper_style():
        figure = plot_circuits(results, found_in_induction())
        figure.draw_without_rendering()
      for ax in figure.axes:
        a, b = (text.get_window_extent() for text in ax.texts)
        self.assertFalse(a.overlaps(b))
        self.assertGreater(ax.bbox.y1, max(a.y1, b.y1))
        self.assertLess(ax.bbox.y0, min(a.y0, b.y0))
      plt.close(figure)

  def test_a_single_pair_has_its_number(self):
    results = with_circuits(induction_results())
    results = results.isel(head=[0], writer_head=[0])
    figure = plot_compositions(results, found_in_induction())
    axes = np.reshape(figure.axes[:12], (3, 4))
    steps = style.three_steps(results.k_composition[1:], found_in_induction())
    for row, step in zip(axes, steps):
      value = float(results.k_composition.sel(step=step)[1, 0, 0, 0])
      for ax in row:
        self.assertEqual([t.get_text() for t in ax.texts], [f"{value:.2f}"])
    plt.close(figure)

  def test_compositions_show_what_is_significant(self):
    results = with_circuits(induction_results())
    figure = plot_compositions(results, found_in_induction())
    axes = np.reshape(figure.axes[:12], (3, 4))
    self.assertEqual(
      [ax.get_title() for ax in axes[0]],
      [*(f"{x}-composition" for x in "QKV"), "K-composed matching"],
    )
    labels = [ax.get_xlabel() for ax in figure.axes]
    self.assertIn(
      "composition (line: null 0.125); dots: p < 0.05, Holm", labels
    )
    for row in range(3):
      for column in range(4):
        writers, readers = axes[row, column].lines[0].get_data()
        marked = list(zip(readers, writers))
        last_ratio = row == 2 and column < 3
        self.assertEqual(marked, [(0, 1)] if last_ratio else [])
    plt.close(figure)

  def test_eigenvalues_are_followed(self):
    results = with_circuits(induction_results())
    # Two eigenvalues with constant values, in alternating order.
    places = np.array([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0]])
    real = results["ov_eigenvalues_real"]
    real[:] = places[np.arange(len(STEPS)) % 2][:, None, None]
    results["ov_eigenvalues_imag"][:] = 0
    figure = plot_eigenvalues(results, found_in_induction())
    (lines,) = figure.axes[0].collections
    pieces = np.array(lines.get_segments())
    self.assertEqual(np.abs(np.diff(pieces, axis=1)).max(), 0)
    plt.close(figure)

  def test_equal_results_give_equal_files(self):
    results = with_circuits(induction_results())
    for plot in plot_circuits, plot_compositions, plot_eigenvalues:
      files = []
      for _ in range(2):
        with style.paper_style():
          figure = plot(results, found_in_induction())
          files.append(io.BytesIO())
          figure.savefig(files[-1], format="svg", metadata={"Date": None})
          plt.close(figure)
      self.assertEqual(files[0].getvalue(), files[1].getvalue())

  def test_a_head_is_called_what_the_verdict_allows(self):
    results = with_circuits(induction_results())
    for verdict, name in (True, "induction head"), (False, "best prefix-match"):
      found = found_in_induction()._replace(
        verdict=findings.Verdict(verdict, reasons=())
      )
      figure = plot_eigenvalues(results, found)
      self.assertLen([t for t in titles(figure) if f", {name}" in t], 2)
      plt.close(figure)


def with_curvature(results: xr.Dataset, steps: slice) -> xr.Dataset:
  """Adds a density and blocks, measured only at some of the steps."""
  rng = np.random.default_rng(2)
  measured = np.full(len(STEPS), np.nan)
  measured[steps] = 1
  # Asymmetric.
  bell = np.exp(-(np.linspace(-5.5, 4.5, len(EIGENVALUES)) ** 2))
  norms = rng.uniform(0.01, 3, (len(STEPS), 3, 3))
  per_block = ("step", "block", "other_block")
  return results.assign(
    {
      "density": (("step", "eigenvalue"), measured[:, None] * bell),
      "density_se": (("step", "eigenvalue"), measured[:, None] * 0.1 * bell),
      "block_norm": (per_block, measured[:, None, None] * norms),
    }
  ).assign_coords(eigenvalue=EIGENVALUES, block=["qk 0.0", "ov 0.0", "norms"])


class CurvatureFigureTest(parameterized.TestCase):
  @parameterized.parameters((slice(None, None, 5), 3), (slice(7, 8), 1))
  def test_steps_around_the_transition(self, steps, shown):
    results = with_curvature(induction_results(), steps)
    found = found_in_induction()
    figure = plot_blocks(results, found)
    self.assertLen([t for t in titles(figure) if t.startswith("step")], shown)
    if shown == 3:
      numbers = [int(t.split()[1]) for t in titles(figure) if t]
      transition = found.transition
      self.assertLessEqual(numbers[0], transition.onset.estimate)
      self.assertAlmostEqual(
        numbers[1], transition.midpoint.estimate, delta=25.1
      )
      after = transition.completion.estimate
      self.assertBetween(numbers[2], max(after, numbers[1]), after + 250)
      self._assert_draws(figure, results.block_norm, numbers)
    plt.close(figure)

  def _assert_draws(self, figure, norms, steps):
    for ax, step in zip(figure.axes, steps):
      (image,) = ax.get_images()
      drawn = np.float64(image.get_array())
      np.testing.assert_allclose(drawn, norms.sel(step=step), rtol=1e-6)
      self.assertEqual(image.norm.vmax, norms.sel(step=steps).max())

  def test_no_curvature_at_all(self):
    results = with_curvature(induction_results(), slice(None, None, 5))
    results["block_norm"] = 0 * results["block_norm"]
    figure = plot_blocks(results, found_in_induction())
    self.assertLen([t for t in titles(figure) if t.startswith("step")], 3)
    plt.close(figure)

  @parameterized.parameters(slice(None, None, 5), slice(7, 8))
  def test_density_has_the_eigenvalues_on_its_axes(self, steps):
    results = with_curvature(induction_results(), steps)
    figure = plot_density(results, found_in_induction())
    heat, ridges = figure.axes[:2]
    shown = [label.get_text() for label in heat.get_yticklabels()]
    self.assertEqual(shown, [x.get_text() for x in ridges.get_xticklabels()])
    self.assertContainsSubset(["-1", "0", "1", "10"], shown)
    density = results.density.dropna("step")
    drawn = np.float64(heat.collections[0].get_array())
    want = np.maximum(density.values.T, LEAST_DENSITY)
    np.testing.assert_allclose(drawn.reshape(want.shape), want)
    line = ridges.lines[0]
    step = int(line.get_label().split()[1])
    np.testing.assert_allclose(line.get_ydata(), density.sel(step=step))
    place = heat.get_yticks()[shown.index("10")]
    self.assertAlmostEqual(
      np.interp(place, range(len(EIGENVALUES)), EIGENVALUES), 10, places=3
    )
    plt.close(figure)


def with_causes(results: xr.Dataset) -> xr.Dataset:
  """Adds ablations, paths and losses by position to results made by hand."""
  n, rng = len(STEPS), np.random.default_rng(3)
  per_head = ("step", "layer", "head")
  added = {
    "direct_attribution": (per_head, rng.normal(size=(n, 2, 2))),
    "direct_attribution_null": ((), 0.0),
    "embedding_attribution": ("step", rng.normal(size=n)),
    "loss_by_occurrence": (("step", "occurrence"), rng.uniform(size=(n, 4))),
    "loss_by_occurrence_null": ((), 4.0),
    "loss_by_position": (("step", "position"), rng.uniform(size=(n, 20))),
    "loss_by_position_null": ((), 4.0),
    "in_context_score": ("step", rng.uniform(size=n)),
    "in_context_score_null": ((), 0.0),
  }
  added["loss_by_occurrence"][1][:, 2:] = np.nan  # no sequence has so many
  for kind in KINDS:
    for suffix in TOKENS:
      # Equal costs, of which that of L0H1 lies within two standard errors.
      cost = np.full((n, 2, 2), 0.25)
      error = np.array([[0.1, 0.2], [0.1, 0.1]]) + np.zeros((n, 1, 1))
      added[f"{kind}_cost{suffix}"] = per_head, cost
      added[f"{kind}_cost{suffix}_se"] = per_head, error
  pairs = np.full((n, 2, 2, 2, 2), np.nan)
  pairs[:, 1, :, 0] = 1.5
  for name, values in (("", pairs), ("_null", pairs - 0.25)):
    dims = (*per_head, "writer_layer", "writer_head")
    added[f"pair_ablation_cost{name}"] = dims, values
  for name in ("path_loss", "path_importance"):
    added[f"{name}_null"] = (), 0.0
    for suffix in ("", "_random", "_se", "_random_se"):
      values = rng.uniform(size=(n, 3))
      added[name + suffix] = ("step", "path_order"), values
  labels = {"occurrence": [1, 2, 3, 4], "position": range(20)}
  return results.assign(added).assign_coords(labels)


def texts(ax) -> list[tuple[str, str]]:
  return [(text.get_text(), text.get_color()) for text in ax.texts]


class CausesFigureTest(absltest.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.results, cls.found = (
      with_causes(induction_results()),
      found_in_induction(),
    )

  def test_costs_within_their_error_are_grey(self):
    figure = plot_ablation(self.results, self.found)
    shown = titles(figure)
    self.assertLen([t for t in shown if t.startswith("predictable")], 3)
    self.assertLen([t for t in shown if t.startswith("other tokens")], 3)
    colors = [color for _, color in texts(figure.axes[0])]
    self.assertLen(colors, 4 * len(KINDS))
    self.assertEqual({text for text, _ in texts(figure.axes[0])}, {"0.25"})
    grey = [color not in ("black", "white") for color in colors]
    self.assertEqual(grey, [i // len(KINDS) == 1 for i in range(len(colors))])
    plt.close(figure)

  def test_pairs_are_compared_with_the_sum(self):
    figure = plot_paths(self.results, self.found)
    self.assertEqual([text for text, _ in texts(figure.axes[3])], ["0.25"] * 4)
    labels = [label.get_text() for label in figure.axes[3].get_xticklabels()]
    self.assertEqual(labels, ["L0H0", "L0H1"])
    plt.close(figure)

  def test_what_was_not_measured_is_said(self):
    names = [x for x in self.results if str(x).startswith(("path", "pair"))]
    figure = plot_paths(self.results.drop_vars(names), self.found)
    said = [text for ax in figure.axes for text, _ in texts(ax)]
    self.assertEqual(
      said,
      ["with MLPs, paths have no order"] * 2 + ["no pairs of heads measured"],
    )
    plt.close(figure)

  def test_occurrences_that_never_came_have_no_curve(self):
    figure = plot_context(self.results, self.found)
    legend = figure.axes[0].get_legend().get_texts()
    self.assertEqual([t.get_text() for t in legend], ["1", "2", "uniform"])
    plt.close(figure)


def with_memories(results: xr.Dataset) -> xr.Dataset:
  """Adds memories of two layers of two heads that rise at known steps."""
  per_head = ("step", "layer", "head")
  late = np.zeros((len(STEPS), 2, 2))
  late[12:, 0, 1] = 0.8  # W_K1, in layer 0
  early = np.zeros((len(STEPS), 2, 2))
  early[:, 0] = 1.0  # layer 0 does not count for W_O2
  early[4:, 1, 0] = 0.3
  early[2, 1, 0] = 0.9  # lost again
  early[7:, 1, 0] = 0.9
  pairs = np.full((len(STEPS), 2, 2, 2, 2), np.nan)
  pairs[:, 1, :, 0] = 0.05
  return results.assign(
    {
      "pattern_accuracy": results.induction_accuracy,
      "w_k1_recall": (per_head, late),
      "w_k2_recall": ((*per_head, "writer_layer", "writer_head"), pairs),
      "w_o2_recall": (per_head, early),
      **{f"w_{x}_recall_null": ((), 0.1) for x in ("k1", "k2", "o2")},
    }
  )


class TaskFigureTest(absltest.TestCase):
  def test_memories_rise_half_way(self):
    results = with_memories(induction_results())
    memories = task_figures.find_memories(results)
    self.assertEqual(list(memories), ["w_o2", "w_k2", "w_k1"])
    half_way = {name: memory.half_way for name, memory in memories.items()}
    steps = {"w_o2": int(STEPS[7]), "w_k2": None, "w_k1": int(STEPS[12])}
    self.assertEqual(half_way, steps)
    figure = task_figures.plot_memory(results, found_in_induction())
    (legend,) = (ax.get_legend() for ax in figure.axes[:1])
    shown = [text.get_text() for text in legend.get_texts()]
    self.assertEqual(
      [label.split(": ")[1] for label in shown],
      [str(STEPS[7]), "-", str(STEPS[12])],
    )
    plt.close(figure)

  def test_markov_shows_every_reference_and_hides_none(self):
    losses = np.linspace(2.5, 1.45, len(STEPS))
    results = induction_results().assign(
      {
        "markov_loss": ("step", losses),
        "markov_loss_null": ((), 1.61),
        "unigram_loss": ((), 1.58),
        "smoothed_unigram_loss": ((), 1.57),
        "bigram_loss": ((), 1.46),
        "chain_loss": ((), 1.29),
        **{
          f"kl_{x}": ("step", losses - 1.4)
          for x in ("uniform", "unigram", "bigram")
        },
      }
    )
    for known in False, True:
      if known:
        results = results.assign(bayes_loss=((), 1.46))
      figure = task_figures.plot_markov(results, found_in_induction())
      ax = figure.axes[0]
      labels = [text.get_text() for text in ax.get_legend().get_texts()]
      last = ["bigrams (Bayes)"] if known else ["bigrams", "matrix known"]
      shown = ["network", "uniform", "unigrams", "unigrams, smoothed", *last]
      self.assertEqual(labels, shown)
      low, high = ax.get_ylim()
      heights = [line.get_ydata()[0] for line in ax.lines[1 : len(shown)]]
      self.assertBetween(min(heights), low, high)
      self.assertBetween(max(heights), low, 2.0)
      plt.close(figure)


class TableTest(absltest.TestCase):
  """The table of figures, and the documented example of adding one."""

  def setUp(self):
    super().setUp()
    self.enter_context(mock.patch.dict(figures.FIGURES))
    self.root = Path(self.enter_context(tempfile.TemporaryDirectory()))

  def write(self, results):
    paths = figures.write_figures(
      self.root / "figures", results, found_in_induction(), "svg"
    )
    self.assertCountEqual(paths, (self.root / "figures").iterdir())
    return [path.stem for path in paths]

  def test_a_figure_is_drawn_where_its_variable_was_measured(self):
    for name in list(figures.FIGURES):
      if name not in ("circuits", "eigenvalues", "markov"):
        del figures.FIGURES[name]
    results = with_circuits(induction_results())
    self.assertEqual(self.write(results), ["circuits", "eigenvalues"])

  def test_the_documented_example_adds_a_figure(self):
    figures.FIGURES.clear()
    exec(doctest.script_from_examples(figures.__doc__), {})
    results = induction_results()
    self.assertEqual(self.write(results), [])
    results = results.assign(
      trace=2 * results.induction_loss, trace_se=0.1 * results.induction_loss
    )
    self.assertEqual(self.write(results), ["trace"])
    text = (self.root / "figures" / "trace.svg").read_text()
    self.assertIn("trace of the Hessian", text)


class LogAxisTest(parameterized.TestCase):
  @parameterized.parameters((2.0, 30.0), (1.1, 1.9), (3.0, 9e4), (0.3, 0.8))
  def test_shows_numbers(self, low, high):
    figure, ax = plt.subplots()
    ax.plot([0, 1], [low, high])
    style.log_axis(ax.yaxis)
    figure.canvas.draw()
    bottom, top = ax.get_ylim()
    shown = [
      label.get_text()
      for label in ax.get_yticklabels(which="both")
      if label.get_text() and bottom <= label.get_position()[1] <= top
    ]
    self.assertGreaterEqual(len(shown), 2)
    plt.close(figure)


if __name__ == "__main__":
  absltest.main()
