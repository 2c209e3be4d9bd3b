"""Strictness that every test runs under, and programs compiled only once."""

import os
import shutil
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# numpy reads it when jax imports it, before induction_jax can set it; two
# threads of each of two test processes only wait for one another.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Compiling is most of what the tests do; tiny sizes need no fast code.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
# Compiled programs, shared with the processes that this one starts.
os.environ.setdefault(
  "JAX_COMPILATION_CACHE_DIR",
  f"{tempfile.gettempdir()}/induction_jax_programs_{os.getpid()}",
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)


def pytest_unconfigure():
  cache = os.environ["JAX_COMPILATION_CACHE_DIR"]
  if cache.endswith(f"_{os.getpid()}"):  # chosen here, and not inherited
    shutil.rmtree(cache, ignore_errors=True)
