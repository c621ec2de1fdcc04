"""Sets of uint8 images, from wherever they are: folders, npz, data, shards."""

import collections
import concurrent.futures
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterator

import numpy as np

from ldm_jax.data import images, workers
from ldm_jax.data.examples import Read
from ldm_jax.data.spec import DataSpec
from ldm_jax.evaluation import gallery, npz, shards
from ldm_jax.types import UserError

# Images of a source without files whose pixels stand for all in its digest.
_PROBES = 64
# What of a DataSpec evaluation does not heed.
_OF_TRAINING = ('crop', 'min_crop', 'flip', 'num_workers', 'max_bad')


class Unusable(UserError):
  """One image of a set cannot be used; the message names it and says why."""


@dataclasses.dataclass(frozen=True)
class ImageSet:
  """Images by index.

  Attributes:
    name: what a report calls it.
    count: how many.
    read: index -> uint8 [H W 3]; raises Unusable.
    digest: () -> what the pixels depend on, hashed.
    stored: whether images are in files, of which some may be damaged.
    left_out: how many cannot be used, and are not counted; see usable.py.
    why: the first of those cannot.
  """

  name: str
  count: int
  read: Callable[[int], np.ndarray]
  digest: Callable[[], str]
  stored: bool = False
  left_out: int = 0
  why: str = ''

  def first(self, count: int) -> 'ImageSet':
    """The first `count` images alone."""
    if count >= self.count:
      return self
    return dataclasses.replace(
      self, count=count, digest=lambda: f'{self.digest()}:{count}'
    )

  def batches(self, size: int) -> Iterator[list[np.ndarray]]:
    """All images in order, `size` at a time; the next are being read."""
    threads = workers.num_threads()
    ahead = max(2 * threads, 2 * size)
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
      coming = collections.deque()
      batch = []
      for index in range(self.count):
        while len(coming) < ahead and index + len(coming) < self.count:
          coming.append(pool.submit(self.read, index + len(coming)))
        batch.append(coming.popleft().result())
        if len(batch) == size:
          yield batch
          batch = []
      if batch:
        yield batch

  def take(self, count: int) -> np.ndarray | list[np.ndarray]:
    """The first images, for a picture."""
    return [self.read(i) for i in range(min(count, self.count))]


def open_path(path: str, option: str) -> ImageSet:
  """A folder of images (a gallery, shards, or any), or an npz's arr_0.

  Raises:
    UserError: naming the option.
  """
  where = pathlib.Path(path)
  if where.is_file() and where.suffix == '.npz':
    return _of_npz(where)
  if not where.is_dir():
    raise UserError(
      f'{option}={path} is neither a folder nor an .npz with images (arr_0).'
    )
  if (where / shards.MANIFEST).exists():
    return of_shards(shards.Shards.open(path))
  if (where / gallery.INDEX).exists():
    files = [where / row['file'] for row in gallery.read_index(path)]
  else:
    files = sorted(
      file
      for file in where.rglob('*')
      if file.suffix.lower() in images.EXTENSIONS
      and not any(p.startswith('.') for p in file.relative_to(where).parts)
    )
  if not files:
    raise UserError(
      f'{option}={path} holds no file that ends in '
      f'{", ".join(images.EXTENSIONS)}.'
    )
  return _of_files(path, where, files)


def _of_files(name, root, files) -> ImageSet:
  def read(index):
    try:
      return images.read(str(files[index]))
    except images.BadImage as error:
      raise Unusable(f'{files[index]}: {error}.') from error

  def digest():
    found = hashlib.sha256()
    for file in files:
      found.update(f'{file.relative_to(root)}\n'.encode())
      with file.open('rb') as stream:
        found.update(hashlib.file_digest(stream, 'sha256').digest())
    return found.hexdigest()

  return ImageSet(str(name), len(files), read, digest, stored=True)


def _of_npz(path: pathlib.Path) -> ImageSet:
  pixels = npz.read_images(path)

  def digest():
    with path.open('rb') as stream:
      return hashlib.file_digest(stream, 'sha256').hexdigest()

  return ImageSet(
    str(path), len(pixels), lambda i: np.asarray(pixels[i]), digest
  )


def of_shards(found: shards.Shards) -> ImageSet:
  """Generated images."""
  found.check_whole()
  return ImageSet(str(found.folder), found.num, found.read, found.digest)


def of_source(source, spec: DataSpec, split: str) -> ImageSet:
  """A split of a run's data, cropped centrally and resized as in training."""
  read = Read(source, spec.centred())

  def one(index):
    try:
      example = read.one(index)
    except images.BadImage as error:
      raise Unusable(f'{read.name(index)}: {error}.') from error
    return images.crop(
      {'image': example['image']},
      spec.size,
      resample=spec.resample,
      resize=spec.resize,
    )['image']

  def probe(index):
    try:
      return one(index).tobytes()
    except Unusable as error:
      return str(error).encode()

  @functools.cache
  def digest():
    about = spec.told(_OF_TRAINING) | {'split': split, 'count': len(source)}
    found = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    if hasattr(source, 'name') and os.path.isfile(source.name(0)):
      for index in range(len(source)):
        with open(source.name(index), 'rb') as stream:
          found.update(hashlib.file_digest(stream, 'sha256').digest())
    else:
      for index in np.linspace(0, len(source) - 1, _PROBES, dtype=int):
        found.update(probe(int(index)))
    return found.hexdigest()

  name = ' '.join(filter(None, (spec.source, spec.path, f'({split})')))
  stored = hasattr(source, 'name')
  return ImageSet(name, len(source), one, digest, stored=stored)


def cache_folder() -> str:
  """Where statistics of references are kept unless told otherwise."""
  root = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
  return os.path.join(root, 'ldm_jax', 'statistics')
