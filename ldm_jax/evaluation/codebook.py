"""How much of a VQ first stage's codebook is used."""

import numpy as np


class Usage:
  """Counts codes over any number of batches."""

  def __init__(self, num_codes: int):
    self._counts = np.zeros(num_codes, np.int64)

  def add(self, indices: np.ndarray) -> None:
    """Adds integer code indices of any shape."""
    self._counts += np.bincount(np.ravel(indices), minlength=len(self._counts))

  def result(self) -> dict[str, float]:
    """Share of codes seen at all, and exp of the entropy of their use."""
    seen = self._counts[self._counts > 0] / max(self._counts.sum(), 1)
    return {
      'codebook_usage': len(seen) / len(self._counts),
      'codebook_perplexity': float(np.exp(-np.sum(seen * np.log(seen)))),
      'codebook_size': len(self._counts),
    }
