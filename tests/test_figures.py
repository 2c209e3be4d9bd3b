"""Figures: what a reader could miss."""

import io

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from absl.testing import absltest, parameterized
from matplotlib.figure import Figure

from induction_jax.probes.density import EIGENVALUES
from induction_jax.report import findings, style
from induction_jax.report.circuit_figures import (
  plot_circuits,
  plot_compositions,
  plot_eigenvalues,
)
from induction_jax.report.curvature_figures import plot_blocks, plot_density
from tests.test_findings import STEPS, found_in_induction, induction_results


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
  chance[-1, 1, 0, 0, 1] = 0.001  # head 1.0 reads head 0.1
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
      # Three in a hundred reach the highest: one of four pairs is no news.
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
      self.assertEqual([text.get_text() for text in ax.texts], ["0.1", "1.0"])
    legend = [text.get_text() for text in shares.get_legend().get_texts()]
    self.assertEqual(legend, ["null 0.02"])
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
    # Two that keep their places, now one first, now the other.
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
  """Adds a density and blocks, measured at some of the steps alone."""
  rng = np.random.default_rng(2)
  measured = np.full(len(STEPS), np.nan)
  measured[steps] = 1
  bell = np.exp(-(np.linspace(-5, 5, len(EIGENVALUES)) ** 2))
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
      self.assertEqual(numbers[2], 950)
    plt.close(figure)

  @parameterized.parameters(slice(None, None, 5), slice(7, 8))
  def test_density_has_the_eigenvalues_on_its_axes(self, steps):
    results = with_curvature(induction_results(), steps)
    figure = plot_density(results, found_in_induction())
    heat, ridges = figure.axes[:2]
    shown = [label.get_text() for label in heat.get_yticklabels()]
    self.assertEqual(shown, [x.get_text() for x in ridges.get_xticklabels()])
    self.assertContainsSubset(["-1", "0", "1", "10"], shown)
    place = heat.get_yticks()[shown.index("10")]
    self.assertAlmostEqual(
      np.interp(place, range(len(EIGENVALUES)), EIGENVALUES), 10, places=3
    )
    plt.close(figure)


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
