"""Many tests at once, of whatever science."""

import numpy as np


def holm(p: np.ndarray) -> np.ndarray:
  """p-values adjusted for how many there are (Holm 1979); nan as they are.

  Those below alpha are significant with a chance of at most alpha that any of
  them is wrong, however the tests depend on one another.
  """
  flat = p.ravel()
  tested = np.flatnonzero(~np.isnan(flat))
  order = tested[np.argsort(flat[tested], kind="stable")]
  scaled = flat[order] * np.arange(order.size, 0, -1)
  adjusted = np.full(flat.shape, np.nan)
  adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1)
  return adjusted.reshape(p.shape)
