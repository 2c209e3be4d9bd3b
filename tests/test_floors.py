"""The layout of the package, read from its imports: they point down only."""

import ast
import pathlib
import tempfile

from absl.testing import absltest, parameterized

PACKAGE = pathlib.Path(__file__).parent.parent / "induction_jax"

# The room a module is in, and the floor the room is on. A package is one room.
FLOORS = {
  "train": 5,
  "visualize": 5,
  "sweep": 5,
  "zoom": 5,
  "measure": 5,
  "measure_weights": 5,
  "export": 5,
  "cli": 5,
  "progress": 5,
  "interrupt": 5,
  "grid": 5,
  "sweep_options": 5,
  "loop": 4,
  "snapshots": 4,
  "measuring": 4,
  "experiment": 4,
  "patience": 4,
  "schedule": 4,
  "cost": 4,
  "results": 4,
  "replay": 4,
  "ledger": 4,
  "seeds": 4,
  "report": 4,
  "probes": 3,
  "interventions": 3,
  "state": 2,
  "step": 2,
  "exchange": 2,
  "tasks": 1,
  "model": 1,
  "losses": 1,
  "mesh": 1,
  "processes": 1,
  "optim": 1,
  "spectra": 1,
  "circuits": 1,
  "transition": 1,
  "storage": 1,
  "types": 0,
  "config": 0,
  "limits": 0,
  "keys": 0,
  "lapack": 0,
  "product": 0,
  "multiplicity": 0,
}
# The only imports between rooms of one floor: (importer, imported).
SAME_FLOOR = {
  ("step", "state"),
  ("config", "types"),
  ("limits", "config"),
  ("keys", "types"),
  ("lapack", "types"),
  # A replay is a run, of steps that have been.
  ("replay", "loop"),
  ("replay", "ledger"),
  ("replay", "patience"),
  # The loop writes into a ledger; many seeds go through the one loop.
  ("loop", "ledger"),
  # It waits for the device, and keeps count of the time.
  ("loop", "patience"),
  ("loop", "schedule"),
  # What it goes on from and saves, and how it measures.
  ("loop", "snapshots"),
  ("loop", "measuring"),
  ("snapshots", "experiment"),
  ("snapshots", "ledger"),
  ("snapshots", "schedule"),
  ("snapshots", "cost"),
  ("replay", "snapshots"),
  ("replay", "measuring"),
  ("loop", "cost"),
  # What all of these run, measure or read is an experiment.
  ("loop", "experiment"),
  ("replay", "experiment"),
  ("results", "experiment"),
  ("seeds", "experiment"),
  ("seeds", "ledger"),
  ("seeds", "loop"),
  ("seeds", "cost"),
  # A run ends with its figures, a zoom as well.
  ("train", "visualize"),
  ("zoom", "visualize"),
  # What the entry points share, and they alone.
  ("train", "cli"),
  ("train", "progress"),
  ("train", "interrupt"),
  ("sweep", "cli"),
  ("sweep", "grid"),
  ("sweep", "sweep_options"),
  ("sweep_options", "cli"),
  ("sweep", "progress"),
  ("sweep", "interrupt"),
  ("visualize", "cli"),
  ("measure", "cli"),
  ("export", "cli"),
  ("zoom", "cli"),
  ("zoom", "progress"),
  ("zoom", "interrupt"),
  ("measure_weights", "cli"),
  # The same measurements, of a file of weights in place of a run.
  ("measure", "measure_weights"),
}
# Libraries that only one module may import.
SOLE_IMPORTERS = {
  "flax.linen": "model/transformer.py",
  "orbax": "storage/checkpoints.py",
  "safetensors": "storage/tensors.py",
}
# Libraries that a room must not import, nor anything inside them. What stands
# on jax counts as jax.
BARRED = {
  "spectra": ("flax",),
  "circuits": ("optax", "orbax", "absl"),
  "transition": ("jax", "jaxlib", "flax", "optax", "orbax", "chex"),
}
# Flags are read on the two upper floors alone.
FLAGS, FLAGS_FLOOR = "absl.flags", 4


def find_imports(source: str, package: str) -> set[str]:
  """Dotted names that a module imports, `from a import b` as a.b.

  Args:
    source: the module's text.
    package: the dotted package it is in, for relative imports.
  """
  names = set()
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      names.update(alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      base = node.module or ""
      if node.level:
        above = package.split(".")[: len(package.split(".")) - node.level + 1]
        base = ".".join([*above, base]).strip(".")
      names.update(f"{base}.{alias.name}" for alias in node.names)
  return names


def find_violations(root: pathlib.Path) -> list[str]:
  """One line for each rule that a file under `root` breaks."""
  found = []
  for path in sorted(root.rglob("*.py")):
    inside = path.relative_to(root)
    if str(inside) == "__init__.py":
      room = None
    else:
      room = inside.parts[0].removesuffix(".py")
      if room not in FLOORS:
        found.append(f"{inside}: not on any floor of the table")
        continue
    package = ".".join(["induction_jax", *inside.parts[:-1]])
    names = find_imports(path.read_text(), package)
    found += _check_floors(str(inside), room, names)
    found += _check_libraries(str(inside), room, names)
  return found


def _check_floors(inside: str, room: str | None, names: set[str]) -> list[str]:
  targets = {
    name.split(".")[1] for name in names if name.startswith("induction_jax.")
  }
  # What is no room is a name of the package's own __init__.py.
  targets = {target for target in targets if target in FLOORS} - {room}
  if room is None:
    return [f"{inside}: imports {target}" for target in sorted(targets)]
  return [
    f"{inside}: floor {FLOORS[room]} imports {target}, floor {FLOORS[target]}"
    for target in sorted(targets)
    if FLOORS[target] >= FLOORS[room] and (room, target) not in SAME_FLOOR
  ]


def _check_libraries(
  inside: str, room: str | None, names: set[str]
) -> list[str]:
  found = [
    f"{inside}: imports {library}, which only {sole} may"
    for library, sole in SOLE_IMPORTERS.items()
    # `import flax` alone gives flax.linen away as well.
    if inside != sole
    and (_imports(names, library) or library.split(".")[0] in names)
  ]
  found += [
    f"{inside}: imports {library}"
    for library in BARRED.get(room, ())
    if _imports(names, library)
  ]
  if FLOORS.get(room, 0) < FLAGS_FLOOR and _imports(names, FLAGS):
    found.append(f"{inside}: reads flags")
  return found


def _imports(names: set[str], library: str) -> bool:
  return any(f"{name}.".startswith(f"{library}.") for name in names)


class FloorsTest(parameterized.TestCase):
  def test_package(self):
    self.assertEqual(find_violations(PACKAGE), [])

  def test_reads_the_package(self):
    # Else an empty folder would pass.
    step = (PACKAGE / "step.py").read_text()
    names = find_imports(step, "induction_jax")
    self.assertIn("induction_jax.state.TrainState", names)
    self.assertIn("jax.numpy", names)

  @parameterized.parameters(
    ("losses.py", "from induction_jax.state import TrainState", "state"),
    ("losses.py", "from induction_jax import step", "step"),
    ("losses.py", "import induction_jax.probes as p", "probes"),
    ("losses.py", "def f():\n  from induction_jax import loop", "loop"),
    ("losses.py", "from .optim import make_schedule", "optim"),
    ("types.py", "from induction_jax.config import Config", "config"),
    ("state.py", "from induction_jax.step import StepMetrics", "step"),
    ("spectra/lanczos.py", "from ..model import Model", "model"),
    ("spectra/lanczos.py", "from .. import circuits", "circuits"),
    ("spectra/__init__.py", "from induction_jax import transition", "transit"),
    ("report/page.py", "from induction_jax.loop import run", "loop"),
    ("visualize.py", "from induction_jax import train", "train"),
    ("cli.py", "from induction_jax import visualize", "visualize"),
    ("__init__.py", "from induction_jax.step import Loss", "step"),
    ("step.py", "import flax.linen as nn", "flax.linen"),
    ("step.py", "from flax import linen", "flax.linen"),
    ("step.py", "import flax", "flax.linen"),
    ("storage/history.py", "import orbax.checkpoint as ocp", "orbax"),
    ("storage/history.py", "from orbax import checkpoint", "orbax"),
    ("spectra/blocks.py", "from flax import traverse_util", "flax"),
    ("circuits/qk.py", "import optax", "optax"),
    ("circuits/qk.py", "from absl import logging", "absl"),
    ("transition/detector.py", "import jax.numpy as jnp", "jax"),
    ("transition/detector.py", "from jax import Array", "jax"),
    ("transition/detector.py", "import chex", "chex"),
    ("probes.py", "from absl import flags", "flags"),
    ("utils.py", "import math", "not on any floor"),
    ("helpers/text.py", "import math", "not on any floor"),
  )
  def test_finds(self, path, source, message):
    found = self._violations(path, source)
    self.assertLen(found, 1)
    self.assertStartsWith(found[0], path)
    self.assertIn(message, found[0])

  @parameterized.parameters(
    ("step.py", "from induction_jax.state import TrainState"),
    ("step.py", "from induction_jax import losses, tasks"),
    ("config.py", "from induction_jax.types import Array"),
    ("model/transformer.py", "import flax.linen as nn"),
    ("model/transformer.py", "from flax import linen"),
    ("step.py", "from flax import traverse_util"),
    ("step.py", "import flax.struct"),
    ("storage/checkpoints.py", "import orbax.checkpoint as ocp"),
    ("spectra/lanczos.py", "from .operators import Operator"),
    ("spectra/lanczos.py", "from induction_jax.spectra import operators"),
    ("spectra/deep/inner.py", "from ..operators import Operator"),
    ("circuits/qk.py", "import jax.numpy as jnp"),
    ("transition/detector.py", "import scipy.optimize, numpy as np"),
    ("transition/detector.py", "import jaxtyping"),
    ("train.py", "from absl import app, flags\nfrom induction_jax import loop"),
  )
  def test_allows(self, path, source):
    self.assertEqual(self._violations(path, source), [])

  def _violations(self, path: str, source: str) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
      file = pathlib.Path(folder) / path
      file.parent.mkdir(parents=True, exist_ok=True)
      file.write_text(source)
      return find_violations(pathlib.Path(folder))


if __name__ == "__main__":
  absltest.main()
