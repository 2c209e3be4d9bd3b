"""Two processes that make up one run: as one, whatever happens to either."""

import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from absl.testing import absltest

from induction_jax.config import make_config
from induction_jax.devices import processes
from induction_jax.run.experiment import make_experiment
from induction_jax.run.results import make_results
from induction_jax.run.snapshots import load_newest
from induction_jax.storage import checkpoints
from induction_jax.storage.run_directory import load_run, open_run
from tests.entry_point import EntryPointTest
from tests.tiny import run_in, tiny_config

SETTINGS = {
  "train__num_steps": 200,
  "behaviour__interval": 20,
  "circuits__interval": 0,
  "ablation__interval": 0,
  "spectra__eigen_interval": 100,
  "spectra__preconditioned_top_k": 0,
  "spectra__track_top_k_eigenvalues": 1,
  "checkpoint__interval": 100,
}
# Of the largest, after 200 steps: float32 in another order.
TOLERANCE = 1e-3


def free_port() -> int:
  with socket.socket() as listener:
    listener.bind(("localhost", 0))
    return listener.getsockname()[1]


class Two:
  """A command in two processes, ended with the test whatever happens."""

  def __init__(self, test, module, *own):
    port = free_port()
    self.running = []
    for i, arguments in enumerate(own):
      command = [sys.executable, "-m", f"induction_jax.{module}", *arguments]
      command += [
        "--distributed",
        f"--coordinator=localhost:{port}",
        "--num_processes=2",
        f"--process_id={i}",
      ]
      process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
      )
      test.addCleanup(process.kill)
      self.running.append(process)

  def wait(self):
    """Exit statuses, outputs and errors."""
    done = [process.communicate(timeout=240) for process in self.running]
    out, err = zip(*done)
    return [process.returncode for process in self.running], out, err


@pytest.mark.slow
class TwoProcessesTest(EntryPointTest):
  settings = SETTINGS | {"mesh__data": 2, "mesh__params": 2}

  def start(self, *arguments):
    # A directory each, as without a disk in common.
    return Two(
      self,
      "train",
      *(
        (f"--config={self.config}", f"--workdir={self.root / name}", *arguments)
        for name in ("first", "second")
      ),
    )

  def test_stops_goes_on_and_equals_one(self):
    # Early enough: checkpoints at 2, 4, 8, ... and spectra at 100 follow.
    saved = self.root / "first" / "checkpoints" / "1"
    two = self.start()
    while not saved.exists():
      if any(process.poll() is not None for process in two.running):
        break
      time.sleep(0.02)
    two.running[1].send_signal(signal.SIGTERM)  # the one that does not write
    statuses, out, err = two.wait()
    self.assertEqual(statuses, [143, 143], err)
    self.assertRegex(out[0], r"stopped at step \d+; to go on:")
    run = load_run(self.root / "first")[0]
    stopped = checkpoints.steps(run.checkpoints)[-1]
    self.assertBetween(stopped, 1, 199)

    statuses, out, err = self.start().wait()
    self.assertEqual(statuses, [0, 0], err)
    self.assertIn("induction head: no", out[0])
    self.assertTrue((run.figures / "transition.png").exists())
    self.assertNotIn("step", out[1])
    self.assertFalse((self.root / "second").exists())

    single = open_run(self.root / "one", self.single_config(), resume=True)
    experiment = make_experiment(self.single_config())
    run_in(single, experiment)
    for name in ("train_loss", "top_eigenvalues", "loss_by_position"):
      found, expected = (
        make_results(experiment, each)[name].dropna("step", how="all")
        for each in (run, single)
      )
      np.testing.assert_array_equal(found.step, expected.step)
      largest = float(np.abs(expected).max())
      self.assertLess(
        float(np.abs(found - expected).max()), TOLERANCE * largest
      )
    states = [load_newest(experiment, each).state for each in (run, single)]
    self.assertEqual([int(state.step) for state in states], [200, 200])
    for a, b in zip(*(jax.tree.leaves(state.params) for state in states)):
      np.testing.assert_allclose(a, b, atol=TOLERANCE)

  def single_config(self):
    return make_config(tiny_config(**SETTINGS).to_dict())

  def test_an_error_of_the_first_ends_both(self):
    (self.root / "first").mkdir()
    (self.root / "first" / "notes.txt").write_text("not a run")
    statuses, _, err = self.start().wait()
    self.assertEqual(statuses, [2, 1])
    self.assertIn("is not empty and holds no run", err[0])
    self.assertNotIn("Traceback", err[0] + err[1])


class AloneTest(absltest.TestCase):
  def test_asks_nobody(self):
    self.assertTrue(processes.is_single() and processes.is_first())
    self.assertEqual(processes.max_over_processes(3), 3)
    self.assertEqual(processes.on_first_process(lambda: 5), 5)
    np.testing.assert_array_equal(processes.broadcast(-0.0), -0.0)
    with self.assertRaisesRegex(OSError, "full"):
      processes.on_first_process(self.fail_to_write)

  def fail_to_write(self):
    raise OSError("full")

  def test_values_come_back_where_they_were(self):
    like = jax.random.key(1), jax.numpy.zeros(3), np.zeros(2)
    values = jax.random.key(2), jax.numpy.arange(3.0), np.ones(2)
    key, array, host = processes.place_like(like, values)
    self.assertEqual(key, jax.random.key(2))
    np.testing.assert_array_equal(array, [0, 1, 2])
    self.assertIsInstance(host, np.ndarray)


if __name__ == "__main__":
  absltest.main()
