"""Figures: what a reader could miss."""

import io

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from absl.testing import absltest, parameterized
from matplotlib.figure import Figure

from induction_jax.probes.density import EIGENVALUES
from induction_jax.report import findings, style, task_figures
from induction_jax.report.circuit_figure import plot_circuits
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
  return results.assign(
    {
      "ov_copying": (per_head, rng.uniform(-1, 1, (n, 2, 2))),
      "qk_matching": (per_head, rng.uniform(-1, 1, (n, 2, 2))),
      "ov_copying_null_sd": ((), 0.1),
      "qk_matching_null_sd": ((), 0.1),
      "k_composition": (per_pair, pairs),
      "k_composition_null": ((), 0.125),
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
  def test_compositions_stand_beside_each_other_with_the_null(self):
    results = with_circuits(induction_results())
    figure = plot_circuits(results, found_in_induction())
    self.assertLen([t for t in titles(figure) if "K-composition" in t], 2)
    labels = [ax.get_ylabel() for ax in figure.axes]
    self.assertIn("K-composition (line: null 0.125)", labels)
    plt.close(figure)

  def test_one_layer_has_no_composition(self):
    results = with_circuits(induction_results()).isel(
      layer=slice(1, 2), writer_layer=slice(1)
    )
    found = found_in_induction()
    head = found.induction_head._replace(layer=0)
    found = found._replace(induction_head=head)
    figure = plot_circuits(results, found)
    self.assertFalse([t for t in titles(figure) if "K-composition" in t])
    plt.close(figure)

  def test_equal_results_give_equal_files(self):
    results = with_circuits(induction_results())
    files = []
    for _ in range(2):
      with style.paper_style():
        figure = plot_circuits(results, found_in_induction())
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
      figure = plot_circuits(results, found)
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


def with_memories(results: xr.Dataset) -> xr.Dataset:
  """Adds memories of two layers of two heads that rise at known steps."""
  per_head = ("step", "layer", "head")
  late = np.zeros((len(STEPS), 2, 2))
  late[12:, 0, 1] = 0.8  # W_K1, in layer 0
  early = np.zeros((len(STEPS), 2, 2))
  early[:, 0] = 1.0  # not in the layer that counts for W_O2
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
