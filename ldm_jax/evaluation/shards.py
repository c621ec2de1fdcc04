"""Generated images on disk, a shard at a time, so that a kill loses one.

  samples/
    shards.json       what they are drawn from: a run, a seed, settings
    00000000.npy ...  uint8 [shard_size H W 3], named by its first image

A shard is there when it is whole. Image k is a function of the settings and
of k alone, so it does not matter which process draws a shard, or when.
"""

import hashlib
import json
import os
import pathlib
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from ldm_jax import whole
from ldm_jax.types import UserError

MANIFEST = 'shards.json'


class Shards:
  """The first `num` images of an endless sequence."""

  def __init__(self, folder: str, num: int, size: int, about: Mapping):
    self.folder = pathlib.Path(folder)
    self.num, self.size = num, size
    self.about = json.loads(json.dumps(dict(about)))
    self._mapped: tuple[int, np.ndarray] | None = None

  @classmethod
  def create(
    cls,
    folder: str,
    num: int,
    size: int,
    about: Mapping[str, Any],
    write: bool = True,
  ) -> 'Shards':
    """Shards of `size` images; goes on with those that are there.

    Of several processes one writes, before the others come and compare.

    Raises:
      UserError: the folder's were drawn from something else.
    """
    shards = cls(folder, num, size, about)
    path = shards.folder / MANIFEST
    if not write or path.exists():
      before = cls.open(folder)
      theirs = {**before.about, 'shard_size': before.size}
      ours = {**shards.about, 'shard_size': size}
      different = [
        f'{k} was {theirs.get(k)!r} and is {ours.get(k)!r}'
        for k in sorted({*theirs, *ours})
        if theirs.get(k) != ours.get(k)
      ]
      if different:
        raise UserError(
          f'{folder} holds images of another run or other settings: '
          f'{"; ".join(different)}. Choose another --out, or delete it.'
        )
    elif shards.folder.exists() and any(shards.folder.iterdir()):
      raise UserError(
        f'{folder} holds files that are no shards of ours; nothing is '
        'overwritten. Choose another --out.'
      )
    if write:
      shards._begin()
    return shards

  @classmethod
  def open(cls, folder: str) -> 'Shards':
    path = pathlib.Path(folder) / MANIFEST
    try:
      content = json.loads(path.read_text())
      return cls(
        folder, content['num'], content['shard_size'], content['about']
      )
    except (OSError, ValueError, KeyError, TypeError) as error:
      raise UserError(f'{path} cannot be read: {error}.') from error

  def _begin(self) -> None:
    """Makes the folder and its manifest; removes what kills left behind."""
    self.folder.mkdir(parents=True, exist_ok=True)
    for left in self.folder.glob('*.partial'):
      left.unlink(missing_ok=True)
    content = {'num': self.num, 'shard_size': self.size, 'about': self.about}
    text = json.dumps(content, indent=2) + '\n'
    with whole.written(self.folder / MANIFEST) as partial:
      partial.write_text(text, encoding='utf-8')

  def missing(self, process: int = 0, processes: int = 1) -> Iterator[int]:
    """First images of this process's shards that are not there yet."""
    for number, first in enumerate(range(0, self.num, self.size)):
      if number % processes == process and not self._is_whole(first):
        yield first

  def write(self, first: int, images: np.ndarray) -> None:
    """Stores the images `first`, `first` + 1, ...; all of a shard."""
    if images.dtype != np.uint8 or len(images) != self.size:
      raise ValueError(f'{images.dtype}{list(images.shape)} is no shard')
    with (
      whole.written(self._path(first), _writer()) as partial,
      partial.open('wb') as file,
    ):
      np.save(file, images)
      file.flush()
      os.fsync(file.fileno())

  def read(self, index: int) -> np.ndarray:
    first = index // self.size * self.size
    mapped = self._mapped
    if mapped is None or mapped[0] != first:
      mapped = first, np.load(self._path(first), mmap_mode='r')
      self._mapped = mapped
    return np.array(mapped[1][index - first])

  def check_whole(self) -> None:
    missing = list(self.missing())
    if missing:
      raise UserError(
        f'{self.folder} lacks {len(missing)} shards, from image {missing[0]} '
        'on; the command that began it goes on.'
      )

  def digest(self) -> str:
    found = hashlib.sha256(f'{self.num}'.encode())
    for first in range(0, self.num, self.size):
      content = self._path(first).read_bytes()
      found.update(f'{first} {zlib.crc32(content)}'.encode())
    return found.hexdigest()

  def _path(self, first: int) -> pathlib.Path:
    return self.folder / f'{first:08d}.npy'

  def _is_whole(self, first: int) -> bool:
    """Whether the file is there, as long as its header says."""
    try:
      return len(np.load(self._path(first), mmap_mode='r')) == self.size
    except (OSError, ValueError):
      return False


def _writer() -> str:
  """Names this process among all that may write the same shard."""
  return f'{jax.process_index()}-{os.getpid()}'
