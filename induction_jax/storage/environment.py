"""What the bits of a run may depend on besides its config: environment.json.

The file describes the environment in which the run was made, with a list
`resumed` of the environments in which it was continued, where they differ.
"""

import functools
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from induction_jax.storage.files import check_fields, read_object, write_json

PACKAGES = (
  "jax",
  "jaxlib",
  "flax",
  "optax",
  "orbax-checkpoint",
  "numpy",
  "scipy",
)
JAX_SETTINGS = (
  "jax_enable_x64",
  "jax_default_matmul_precision",
  "jax_default_prng_impl",
  "jax_threefry_partitionable",
  "jax_disable_jit",
)
# Recorded, but no cause of different bits.
UNCOMPARED = ("command", "platform", "resumed")


def describe_environment() -> dict[str, Any]:
  """Versions, devices, settings and code of this process."""
  return {
    "python": platform.python_version(),
    "platform": platform.platform(),
    "packages": {name: version(name) for name in PACKAGES},
    "devices": [str(device) for device in jax.devices()],
    "device_kind": jax.devices()[0].device_kind,
    "processor": _processor(),
    "threads": _threads(),
    "xla_flags": os.environ.get("XLA_FLAGS", ""),
    "jax_settings": {
      name: _plain(getattr(jax.config, name, None)) for name in JAX_SETTINGS
    },
    "key_implementation": str(jax.random.key_impl(jax.random.key(0))),
    "code": dict(_code()),
    "command": sys.argv,
  }


def note_environment(path: Path) -> None:
  """Writes environment.json, or adds to it what has changed since.

  A change is also reported in one line on standard error: a run that is
  continued elsewhere may continue with different bits.
  """
  now = describe_environment()
  if not path.exists():
    write_json(path, now)
    return
  stored = read_environment(path)
  if changed := differences(_newest(stored), now):
    stored["resumed"] = [*stored.get("resumed", []), now]
    write_json(path, stored)
    warn_once(f"{changed}: bits may differ")


def changed_environment(path: Path) -> str:
  """How this process differs from a run's environment; "" if it does not."""
  if not path.exists():
    return "environment.json is missing"
  return differences(_newest(read_environment(path)), describe_environment())


def read_environment(path: Path) -> dict[str, Any]:
  """Reads environment.json.

  Raises:
    OSError: if the file is missing.
    ConfigError: if it holds anything else.
  """
  stored = read_object(path)
  if "resumed" in stored:
    check_fields(stored, str(path), {"resumed": list})
    for each in stored["resumed"]:
      check_fields(each, f"{path}: resumed", {})
  return stored


def differences(then: dict[str, Any], now: dict[str, Any]) -> str:
  """What may change bits and has changed, as `name old then, new now; ...`."""
  old, new = _flatten(then), _flatten(now)
  return "; ".join(
    f"{name} {old.get(name, 'unknown')} then, {new.get(name, 'unknown')} now"
    for name in {**old, **new}
    if old.get(name) != new.get(name)
  )


def _newest(stored: dict[str, Any]) -> dict[str, Any]:
  """The environment in which a run was last continued."""
  return stored["resumed"][-1] if stored.get("resumed") else stored


@functools.cache
def warn_once(text: str) -> None:
  """Prints a warning that would be the same for every seed of a sweep."""
  print(f"warning: {text}", file=sys.stderr)


def _flatten(values: dict[str, Any]) -> dict[str, str]:
  flat: dict[str, str] = {}
  for name, value in values.items():
    if name in UNCOMPARED:
      continue
    if isinstance(value, dict):
      # Packages are listed by their own names.
      above = "" if name == "packages" else f"{name}."
      flat |= {f"{above}{inner}": str(x) for inner, x in value.items()}
    elif isinstance(value, list):
      flat[name] = ", ".join(map(str, value))
    else:
      flat[name] = str(value)
  return flat


def _plain(value: Any) -> Any:
  simple = value is None or isinstance(value, bool | int | float)
  return value if simple else str(value)


def _processor() -> str:
  """The processor's name: its instruction set decides how sums are rounded."""
  info = Path("/proc/cpuinfo")
  if info.exists():
    for line in info.read_text().splitlines():
      if line.startswith("model name"):
        return line.partition(":")[2].strip()
  return platform.processor()


def _threads() -> int:
  """Processors this process may use: XLA takes a thread for each."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


@functools.cache
def _code() -> tuple[tuple[str, Any], ...]:
  """The commit of this package, where it is a git checkout."""
  root = Path(__file__).parents[2]
  if not (root / ".git").exists():
    return (("commit", None), ("uncommitted_changes", None))
  changed = _git(root, "status", "--porcelain", "--untracked-files=no")
  return (
    ("commit", _git(root, "rev-parse", "HEAD")),
    ("uncommitted_changes", None if changed is None else bool(changed)),
  )


def _git(root: Path, *arguments: str) -> str | None:
  try:
    done = subprocess.run(
      ["git", "-C", str(root), *arguments],
      capture_output=True,
      text=True,
      timeout=10,
      check=True,
    )
  except (OSError, subprocess.SubprocessError):
    return None
  return done.stdout.strip()
