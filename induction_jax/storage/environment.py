"""Where a run was made: all that its bits may depend on besides its config."""

import functools
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

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
# Told, but no cause of other bits.
UNCOMPARED = ("command", "platform", "resumed")


def describe_environment() -> dict[str, Any]:
  """Versions, device, settings and code, for environment.json."""
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


def differences(then: dict[str, Any], now: dict[str, Any]) -> str:
  """What may change bits and has changed, as `name old then, new now; ...`."""
  old, new = _flatten(then), _flatten(now)
  return "; ".join(
    f"{name} {old.get(name, 'unknown')} then, {new.get(name, 'unknown')} now"
    for name in {**old, **new}
    if old.get(name) != new.get(name)
  )


def newest(stored: dict[str, Any]) -> dict[str, Any]:
  """The environment that a run last went on in."""
  return stored["resumed"][-1] if stored.get("resumed") else stored


def _flatten(values: dict[str, Any]) -> dict[str, str]:
  flat: dict[str, str] = {}
  for name, value in values.items():
    if name in UNCOMPARED:
      continue
    if isinstance(value, dict):
      # Packages are known by their own names.
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
  """The processor's name: its instructions choose how sums are rounded."""
  info = Path("/proc/cpuinfo")
  if info.exists():
    for line in info.read_text().splitlines():
      if line.startswith("model name"):
        return line.partition(":")[2].strip()
  return platform.processor()


def _threads() -> int:
  """Processors this process may use; XLA's CPU threads follow from them."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


@functools.cache
def _code() -> tuple[tuple[str, Any], ...]:
  """Version of this package, and its commit where it is a git checkout."""
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
