"""Figures: what a reader could miss."""

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from absl.testing import absltest, parameterized
from matplotlib.figure import Figure

from induction_jax.report import findings, style
from induction_jax.report.circuit_figure import plot_circuits
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

  def test_a_head_is_called_what_the_verdict_allows(self):
    results = with_circuits(induction_results())
    for verdict, name in (True, "induction head"), (False, "best prefix-match"):
      found = found_in_induction()._replace(
        verdict=findings.Verdict(verdict, reasons=())
      )
      figure = plot_circuits(results, found)
      self.assertLen([t for t in titles(figure) if f", {name}" in t], 2)
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
