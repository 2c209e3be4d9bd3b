r"""Peak memory of a measurement, in a process of its own.

  python experiments/benchmarks/memory.py quick streamed 512

prints the peak before and after it, in MB: the difference is what the
measurement adds to a process that has imported everything and holds the
network and its batch. The compiler's memory is in it, the interpreter's not.
"""

import json
import resource
import subprocess
import sys

# Examples in a micro-batch: enough for activations to outweigh the compiler.
MICRO_BATCH = {"quick": 64, "1m": 16}
ORDER = 6
MODES = ("streamed", "resident")


def memory_growth(
  size: str, mode: str
) -> tuple[float, dict[int, tuple[float, float]]]:
  """Peak of a measurement on eight micro-batches over that on one.

  Both above the same base, the smaller of the peaks before.

  Args:
    size: a key of SIZES.
    mode: "streamed" in micro-batches, or the whole batch "resident".

  Returns:
    The ratio, and by number of examples the peak before and after, in MB.
  """
  peaks = {
    examples: peak_memory(size, mode, examples)
    for examples in (MICRO_BATCH[size], 8 * MICRO_BATCH[size])
  }
  base = min(before for before, _ in peaks.values())
  one, eight = (after - base for _, after in peaks.values())
  return eight / one, peaks


def peak_memory(
  size: str, what: str, examples: int | None = None
) -> tuple[float, float]:
  """Peaks before and after, in MB, in a new process.

  A process begins with the peak of the one that starts it, so this must be
  called before anything large is held.

  Args:
    size: a key of SIZES.
    what: one of MODES, or a solver ("ours", or a peer at its defaults).
    examples: in the Hessian's batch; the size's own by default.

  Raises:
    RuntimeError: if the process fails, with its last line.
  """
  command = [sys.executable, __file__, size, what, *filter(None, [examples])]
  process = subprocess.run(
    [str(x) for x in command], capture_output=True, text=True
  )
  if process.returncode:
    raise RuntimeError(process.stderr.strip().splitlines()[-1])
  before, after = json.loads(process.stdout.splitlines()[-1])
  return before, after


def main(size: str, what: str, examples: int | None) -> None:
  from peers import make_peer
  from problem import K, make_problem
  from solvers import make_ours

  problem = make_problem(size, examples, trained=False)
  if what in MODES:
    measure = _make_measurement(problem, what, MICRO_BATCH[size])
  elif what == "ours":
    measure = make_ours(problem, K)
  else:
    measure = make_peer(what, problem).defaults
  before = peak_resident()
  measure(0)
  print(json.dumps([before, peak_resident()]))


def _make_measurement(problem, mode: str, micro_batch: int):
  """Lanczos of a short order, so that its basis does not hide the rest."""
  import jax

  from induction_jax import spectra

  streamed = mode == "streamed"
  data = problem.split(micro_batch if streamed else None)
  make = spectra.hessian if streamed else spectra.linearized_hessian
  prepare = jax.jit(lambda params: make(problem.loss, params, data))

  @jax.jit
  def find(hessian, seed):
    return spectra.lanczos(
      hessian,
      problem.params,
      jax.random.key(seed),
      k_top=1,
      k_bottom=1,
      max_order=ORDER,
      tolerance=0.0,
    )

  return lambda seed: jax.device_get(find(prepare(problem.params), seed))


def peak_resident() -> float:
  """The most this process has had in memory so far, in MB."""
  unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, KiB here
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


if __name__ == "__main__":
  main(sys.argv[1], sys.argv[2], int(sys.argv[3]) if sys.argv[3:] else None)
