"""What makes a checkpoint folder whole, and how to tell that it is.

A folder is valid when `COMMITTED` holds the checksum of `manifest.json`, and
the manifest's size and CRC-32 of every file agree with what is on disk. That
is checked before anything parses the files.

The manifest also holds, for every array, two sums over its elements' bits
w_i taken as unsigned integers, modulo 2**64:

  A = sum_i w_i        B = sum_i i * w_i      (i: position in the whole array)

They are computed from the values in memory when saving and again after
restoring, so they also catch a file that is intact and holds something else.
Sums over parts add up to the sum over the whole, so each process covers only
the shards that it holds, and the result does not depend on the sharding.
"""

import concurrent.futures
import itertools
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from ldm_jax.types import UserError

MANIFEST = 'manifest.json'
COMMITTED = 'COMMITTED'
_MASK = 2**64 - 1
_BLOCK = 2**22


class Damaged(UserError):
  """A checkpoint whose bytes are not the ones that were saved."""


def array_sums(
  data: np.ndarray, index: Sequence[slice], shape: Sequence[int]
) -> tuple[int, int]:
  """(A, B) of the part `index` of an array of `shape`, with values `data`."""
  words = np.ascontiguousarray(data).view(f'u{data.dtype.itemsize}')
  words = words.reshape(data.shape)  # ascontiguousarray makes scalars 1-D.
  if not words.size:
    return 0, 0
  weighted, stride = 0, 1
  # i is a sum over axes of (position along the axis) x (the axis's stride), so
  # marginal sums are enough and no array of positions is ever made. The last
  # axis goes first: then one pass over the data remains for all the others.
  for axis in reversed(range(words.ndim)):
    rows = words.reshape(-1, words.shape[axis])
    marginal = rows.sum(axis=0, dtype=np.uint64)
    start = index[axis].start or 0
    positions = np.arange(start, start + len(marginal), dtype=np.uint64)
    weighted += stride * int(np.dot(marginal, positions))
    stride *= shape[axis]
    words = words.sum(axis=-1, dtype=np.uint64)
  total = int(words)
  return total & _MASK, weighted & _MASK


def add_sums(parts: Sequence[Sequence[int]]) -> tuple[int, int]:
  """The sums of a whole from those of its parts."""
  return (
    sum(part[0] for part in parts) & _MASK,
    sum(part[1] for part in parts) & _MASK,
  )


def list_files(folder: epath.Path) -> list[str]:
  """Relative paths of all files below, sorted."""
  found = []

  def walk(path, prefix):
    for child in path.iterdir():
      name = f'{prefix}{child.name}'
      if child.is_dir():
        walk(child, f'{name}/')
      else:
        found.append(name)

  walk(folder, '')
  return sorted(found)


def file_sums(
  folder: epath.Path, names: Sequence[str]
) -> dict[str, tuple[int, int]]:
  """{name: (size, CRC-32)}, read back from the storage."""
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    sums = pool.map(lambda name: _file_sum(folder / name), names)
    return dict(zip(names, sums, strict=True))


def write(folder: epath.Path, content: Mapping[str, Any]) -> None:
  """Writes the manifest, then the marker that makes the folder count."""
  data = json.dumps(content, indent=1).encode()
  (folder / MANIFEST).write_bytes(data)
  (folder / COMMITTED).write_bytes(_marker(data))


def read(folder: epath.Path) -> dict[str, Any]:
  """The manifest of a committed folder; Damaged if it is not intact."""
  try:
    data = (folder / MANIFEST).read_bytes()
    marker = (folder / COMMITTED).read_bytes()
  except OSError as error:
    raise Damaged(f'{folder}: {error}') from error
  if marker != _marker(data):
    raise Damaged(f'{folder / MANIFEST} does not match {COMMITTED}')
  return json.loads(data)


def verify_files(
  folder: epath.Path, content: Mapping[str, Any], below: Sequence[str] = ('',)
) -> None:
  """Raises Damaged, naming a file, unless all files are as they were saved.

  Only names that start with one of `below` are read.
  """
  expected = {
    name: tuple(value)
    for name, value in content['files'].items()
    if name.startswith(tuple(below))
  }
  try:
    found = file_sums(folder, list(expected))
  except OSError as error:
    raise Damaged(f'{folder}: {error}') from error
  for name, value in expected.items():
    if found[name] != value:
      raise Damaged(
        f'{folder / name} holds {found[name][0]} bytes with checksum '
        f'{found[name][1]:08x}, and {value[0]} bytes with {value[1]:08x} '
        'were saved'
      )


def verify_arrays(
  content: Mapping[str, Any], sums: Mapping[str, Sequence[int]]
) -> None:
  """Raises Damaged, naming an array, unless the sums are the saved ones."""
  for name, value in sums.items():
    if tuple(content['arrays'][name]['sums']) != tuple(value):
      raise Damaged(f'array {name} holds other values than were saved')


def _marker(data: bytes) -> bytes:
  return f'{zlib.crc32(data):08x}\n'.encode()


def _file_sum(path: epath.Path) -> tuple[int, int]:
  size = crc = 0
  with path.open('rb') as file:
    for block in itertools.takewhile(
      len, iter(lambda: file.read(_BLOCK), None)
    ):
      size += len(block)
      crc = zlib.crc32(block, crc)
  return size, crc
