"""Induction heads through the eigenspectrum of the loss Hessian.

Words, each with one meaning throughout the package:

  predictable token   a position whose next token follows from an earlier
                      occurrence in the same sequence (types.Batch)
  measurement         training state -> named arrays, at an interval of steps
                      (measurements.measurement)
  evaluation batch    a held-out batch, the same at every step
                      (measurements.batches)
  null value          what a score is if only chance is at work; recorded beside
                      it as `<name>_null` (circuits, spectra)
  residual bound      an upper bound on ||H v - lambda v|| of an eigenpair
                      (spectra)
  probe vector        a random vector of a stochastic estimator (spectra)
  carry               what a measurement remembers until it is made again
  snapshot            a run in memory; a checkpoint is a snapshot on disk
  history             history.jsonl, every measurement as it was made;
                      results are the same as one labelled dataset, results.nc
  transition          the jump of behaviour: onset, midpoint and completion are
                      10, 50 and 90 % of it (transition)
  findings            what a run shows: transition, induction heads, dated
                      events (report.findings); the summary is their text
  L1H3                head 3 of layer 1, both counted from 0

GUIDE.md beside this file says where everything is and how to extend it.
"""

import os

# LAPACK's threads fight XLA's for the same cores: Lanczos' own work on a CPU
# was eight times slower with them. Read when scipy is imported, so set here.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
