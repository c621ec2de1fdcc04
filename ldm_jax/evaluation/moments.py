"""Mean and covariance of a stream of features: one pass, float64."""

from collections.abc import Iterable

import numpy as np

# Rows gathered before they are merged: one large product is faster than many
# small ones.
_ROWS = 1024


class Moments:
  """Count, mean [D] and unbiased covariance [D D] of rows added bit by bit.

  Batches are merged as by Chan et al. (1979): each is centred on its own mean,
  so nothing cancels, and memory does not grow with the number of rows.
  """

  def __init__(self, dim: int):
    self._count = 0
    self._mean = np.zeros(dim)
    self._scatter = np.zeros((dim, dim))
    self._pending: list[np.ndarray] = []
    self._waiting = 0

  def add(self, rows: np.ndarray) -> None:
    """Adds rows [N D]."""
    rows = np.array(rows, np.float64, ndmin=2)
    if rows.shape[1] != len(self._mean):
      raise ValueError(f'rows of {rows.shape[1]}, not {len(self._mean)}')
    self._pending.append(rows)
    self._waiting += len(rows)
    if self._waiting >= _ROWS:
      self._flush()

  def _flush(self):
    if not self._waiting:
      return
    rows = np.concatenate(self._pending)
    self._pending, self._waiting = [], 0
    for i in range(0, len(rows), _ROWS):
      part = rows[i : i + _ROWS]
      mean = part.mean(0)
      part = part - mean
      self._join(len(part), mean, part.T @ part)

  def _join(self, count, mean, scatter):
    total = self._count + count
    if not total:
      return
    delta = mean - self._mean
    self._scatter += scatter
    self._scatter += np.outer(delta, delta * (self._count * count / total))
    self._mean += delta * (count / total)
    self._count = total

  @property
  def count(self) -> int:
    return self._count + self._waiting

  @property
  def mean(self) -> np.ndarray:
    self._flush()
    return self._mean

  @property
  def covariance(self) -> np.ndarray:
    """Divided by N - 1, as numpy.cov."""
    self._flush()
    if self._count < 2:
      raise ValueError(f'{self._count} rows have no covariance')
    return self._scatter / (self._count - 1)


def of(batches: Iterable[np.ndarray]) -> Moments:
  """The moments of all rows of some batches [N D]."""
  found = None
  for batch in batches:
    found = found or Moments(batch.shape[1])
    found.add(batch)
  if found is None:
    raise ValueError('no features')
  return found
