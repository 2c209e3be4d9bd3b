"""The layout of the package, read from its imports: they point down only."""

import ast
import pathlib
import tempfile

from absl.testing import absltest, parameterized

PACKAGE = pathlib.Path(__file__).parent.parent / "induction_jax"

# Each room (a folder, or a module beside the folders) and the floor it is on. A
# room may import rooms on lower floors only.
FLOORS = {
  "__main__": 10,
  **dict.fromkeys(
    ("train", "sweep", "zoom", "measure", "visualize", "export"), 9
  ),
  "commands": 8,
  "run": 7,
  "measurements": 6,
  "report": 6,
  "interventions": 5,
  "training": 4,
  "exchange": 4,
  "circuits": 3,
  "model": 3,
  "spectra": 3,
  "storage": 3,
  "tasks": 3,
  "transition": 3,
  "devices": 2,
  "config": 1,
  "types": 0,
}
# Libraries that only one module may import.
SOLE_IMPORTERS = {
  "flax.linen": "model/transformer.py",
  "orbax": "storage/checkpoint_format.py",
  "safetensors": "storage/tensors.py",
}
# Libraries that a room must not import, nor anything inside them. What stands
# on jax counts as jax.
BARRED = {
  "spectra": ("flax",),
  "circuits": ("optax", "orbax", "absl"),
  "transition": ("jax", "jaxlib", "flax", "optax", "orbax", "chex"),
}
# Flags are read by the commands alone.
FLAGS, FLAGS_FLOOR = ("absl.flags", "argparse"), 8


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
    if FLOORS[target] >= FLOORS[room]
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
  if FLOORS.get(room, 0) < FLAGS_FLOOR and any(
    _imports(names, library) for library in FLAGS
  ):
    found.append(f"{inside}: reads flags")
  return found


def _imports(names: set[str], library: str) -> bool:
  return any(f"{name}.".startswith(f"{library}.") for name in names)


class FloorsTest(parameterized.TestCase):
  def test_package(self):
    self.assertEqual(find_violations(PACKAGE), [])

  def test_reads_the_package(self):
    # Else an empty folder would pass.
    step = (PACKAGE / "training" / "step.py").read_text()
    names = find_imports(step, "induction_jax.training")
    self.assertIn("induction_jax.training.state.TrainState", names)
    self.assertIn("jax.numpy", names)
    modules = [x for x in PACKAGE.iterdir() if x.suffix in ("", ".py")]
    rooms = {x.stem for x in modules} - {"__init__"}
    self.assertEqual(rooms - {"__pycache__"}, set(FLOORS))

  @parameterized.parameters(
    ("model/losses.py", "from induction_jax.training.state import x", "train"),
    ("model/losses.py", "from induction_jax import training", "training"),
    ("model/losses.py", "import induction_jax.measurements as m", "measure"),
    ("model/losses.py", "def f():\n  from induction_jax import run", "run"),
    ("model/losses.py", "from ..training.optimizer import x", "training"),
    ("types.py", "from induction_jax.config import Config", "config"),
    ("spectra/lanczos.py", "from ..model import Model", "model"),
    ("spectra/lanczos.py", "from .. import circuits", "circuits"),
    ("spectra/__init__.py", "from induction_jax import transition", "transit"),
    ("report/page.py", "from induction_jax.run.loop import run", "run"),
    ("visualize.py", "from induction_jax import train", "train"),
    ("commands/flags.py", "from induction_jax import visualize", "visualize"),
    ("__init__.py", "from induction_jax.training.step import x", "training"),
    ("training/step.py", "import flax.linen as nn", "flax.linen"),
    ("training/step.py", "from flax import linen", "flax.linen"),
    ("training/step.py", "import flax", "flax.linen"),
    ("storage/history.py", "import orbax.checkpoint as ocp", "orbax"),
    ("storage/history.py", "from orbax import checkpoint", "orbax"),
    ("spectra/blocks.py", "from flax import traverse_util", "flax"),
    ("circuits/qk.py", "import optax", "optax"),
    ("circuits/qk.py", "from absl import logging", "absl"),
    ("transition/detector.py", "import jax.numpy as jnp", "jax"),
    ("transition/detector.py", "from jax import Array", "jax"),
    ("transition/detector.py", "import chex", "chex"),
    ("measurements/x.py", "from absl import flags", "flags"),
    ("measurements/x.py", "import argparse", "flags"),
    ("utils.py", "import math", "not on any floor"),
    ("helpers/text.py", "import math", "not on any floor"),
  )
  def test_finds(self, path, source, message):
    found = self._violations(path, source)
    self.assertLen(found, 1)
    self.assertStartsWith(found[0], path)
    self.assertIn(message, found[0])

  @parameterized.parameters(
    ("training/step.py", "from induction_jax.training.state import x"),
    ("training/step.py", "from induction_jax import model, tasks"),
    ("config/leaves.py", "from induction_jax.types import Array"),
    ("model/transformer.py", "import flax.linen as nn"),
    ("model/transformer.py", "from flax import linen"),
    ("training/step.py", "from flax import traverse_util"),
    ("training/step.py", "import flax.struct"),
    ("storage/checkpoint_format.py", "import orbax.checkpoint as ocp"),
    ("spectra/lanczos.py", "from .operators import Operator"),
    ("spectra/lanczos.py", "from induction_jax.spectra import operators"),
    ("spectra/deep/inner.py", "from ..operators import Operator"),
    ("circuits/qk.py", "import jax.numpy as jnp"),
    ("transition/detector.py", "import scipy.optimize, numpy as np"),
    ("transition/detector.py", "import jaxtyping"),
    ("train.py", "import argparse\nfrom induction_jax import run"),
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
