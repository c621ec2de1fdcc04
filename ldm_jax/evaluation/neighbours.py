"""Each sample beside the training images nearest to it (Fig. 32-34)."""

import heapq
from collections.abc import Iterable

import numpy as np

from ldm_jax.data import panels
from ldm_jax.evaluation import features
from ldm_jax.evaluation.features import Network
from ldm_jax.evaluation.image_sets import ImageSet


def nearest(
  network: Network,
  samples: list[np.ndarray],
  reference: ImageSet,
  count: int = 10,
  batch_size: int = 50,
) -> tuple[np.ndarray, np.ndarray]:
  """(indices, Euclidean distances), both [samples, count], nearest first.

  The reference is streamed; nothing of its size is kept.
  """
  ours = features.extract(network, [samples])['pool'].astype(np.float64)
  best: list[list] = [[] for _ in samples]
  first = 0
  for found in features.stream(network, reference.batches(batch_size)):
    theirs = found['pool'].astype(np.float64)
    squared = np.sum((ours[:, None] - theirs[None]) ** 2, -1)
    for row, away in zip(best, squared):
      for j in np.argsort(away)[:count]:
        entry = -away[j], -(first + int(j))  # A heap's first is its least.
        push = heapq.heappush if len(row) < count else heapq.heappushpop
        push(row, entry)
    first += len(theirs)
  ordered = [sorted(row, reverse=True) for row in best]
  indices = np.array([[-index for _, index in row] for row in ordered])
  away = np.array([[np.sqrt(-square) for square, _ in row] for row in ordered])
  return indices, away


def picture(
  samples: Iterable[np.ndarray], reference: ImageSet, indices: np.ndarray
) -> np.ndarray:
  """A row for each sample: itself, then its neighbours; uint8 [H W 3].

  Neighbours of another size than the samples are cut or padded to it.
  """
  cells = []
  for sample, row in zip(samples, indices):
    cells.append(sample)
    for index in row:
      cell = np.full_like(sample, 255)
      found = reference.read(int(index))[: cell.shape[0], : cell.shape[1]]
      cell[: found.shape[0], : found.shape[1]] = found
      cells.append(cell)
  return panels.grid(cells, columns=1 + indices.shape[1])
