"""Induction heads through the eigenspectrum of the loss Hessian."""
