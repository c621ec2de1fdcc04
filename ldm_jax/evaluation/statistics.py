"""What a set of images is to a feature network; of references, kept on disk."""

import dataclasses
import hashlib
import os
import pathlib
import zipfile
from collections.abc import Collection, Mapping

import numpy as np

from ldm_jax.evaluation import features
from ldm_jax.evaluation.features import Network, Pace
from ldm_jax.evaluation.image_sets import ImageSet
from ldm_jax.evaluation.moments import Moments
from ldm_jax.types import UserError


@dataclasses.dataclass
class Statistics:
  """Of a set under a network.

  Attributes:
    name: the set's.
    count: images.
    moments: {features: (mean [D], covariance [D D])}.
    rows: {features: [N D]}.
    pace: of their computation; None where they were read.
  """

  name: str
  count: int
  moments: Mapping[str, tuple[np.ndarray, np.ndarray]]
  rows: Mapping[str, np.ndarray]
  pace: Pace | None = None


def measure(
  network: Network,
  images: ImageSet,
  *,
  moments: Collection[str] = (),
  rows: Collection[str] = (),
  batch_size: int = 50,
) -> Statistics:
  """One pass; moments take memory of their own size, rows that of the set."""
  streamed: dict[str, Moments] = {}
  kept: dict[str, list[np.ndarray]] = {name: [] for name in rows}
  pace = Pace()
  for found in features.stream(network, images.batches(batch_size), pace):
    for name in moments:
      if name not in streamed:
        streamed[name] = Moments(found[name].shape[1])
      streamed[name].add(found[name])
    for name in rows:
      kept[name].append(found[name])
  return Statistics(
    images.name,
    images.count,
    {k: (m.mean, m.covariance) for k, m in streamed.items()},
    {k: np.concatenate(parts) for k, parts in kept.items()},
    pace,
  )


def measure_cached(
  network: Network, images: ImageSet, cache: str, **wanted
) -> Statistics:
  """As `measure`, from the cache where it has all that is wanted.

  The key is a digest of the images, of how they are prepared, and of the
  network with its weights.
  """
  key = hashlib.sha256(f'2 {images.digest()} {network.digest}'.encode())
  path = pathlib.Path(cache) / f'{key.hexdigest()[:32]}.npz'
  found = _load(path, images)
  lacks = found is None or any(
    name not in getattr(found, kind)
    for kind in ('moments', 'rows')
    for name in wanted.get(kind, ())
  )
  if lacks:
    new = measure(network, images, **wanted)
    found = new if found is None else _together(found, new)
    _store(path, found)
  return found


def _together(old: Statistics, new: Statistics) -> Statistics:
  return dataclasses.replace(
    new,
    moments={**old.moments, **new.moments},
    rows={**old.rows, **new.rows},
  )


def _store(path: pathlib.Path, found: Statistics) -> None:
  arrays = {'count': np.int64(found.count)}
  for name, (mean, cov) in found.moments.items():
    arrays |= {f'mean/{name}': mean, f'cov/{name}': cov}
  arrays |= {f'rows/{name}': x for name, x in found.rows.items()}
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f'.{os.getpid()}.partial')
    with partial.open('wb') as file:
      np.savez(file, **arrays)
    partial.replace(path)
  except OSError as error:
    raise UserError(
      f'--cache: {path} cannot be written: {error.strerror}.'
    ) from error


def _load(path: pathlib.Path, images: ImageSet) -> Statistics | None:
  try:
    with np.load(path, allow_pickle=False) as archive:
      names = {k: [n.split('/')[1] for n in archive if n.startswith(f'{k}/')]
               for k in ('cov', 'rows')}  # fmt: skip
      return Statistics(
        images.name,
        int(archive['count']),
        {n: (archive[f'mean/{n}'], archive[f'cov/{n}']) for n in names['cov']},
        {n: archive[f'rows/{n}'] for n in names['rows']},
      )
  except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
    return None  # Not there, or cut off by a kill: computed again.
