"""Induction heads through the eigenspectrum of the loss Hessian."""

import os

# LAPACK's threads fight XLA's for the same cores: Lanczos' own work on a CPU
# was eight times slower with them. Read when scipy is imported, so set here.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
