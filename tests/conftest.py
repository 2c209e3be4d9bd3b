"""Strictness that every test runs under."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Compiling is most of what the tests do; tiny sizes need no fast code.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)
