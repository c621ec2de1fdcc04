"""Files mapped into memory, and arrays that are views of them."""

import math
import mmap
import os
import stat
from collections.abc import Sequence

import ml_dtypes
import numpy as np

from ldm_jax.types import UserError

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


class Damaged(Exception):
  """What is wrong with a file; the reader adds its path."""


def map_file(path: str) -> mmap.mmap:
  """The whole file, read-only; pages are read when they are looked at.

  Raises:
    UserError: it is not there, is no regular file, or is empty.
  """
  try:
    # Not blocking: opening a pipe that nobody writes to would wait for ever.
    handle = os.open(path, os.O_RDONLY | getattr(os, 'O_NONBLOCK', 0))
    try:
      status = os.fstat(handle)
      if not stat.S_ISREG(status.st_mode):
        raise UserError(f'{path} is no regular file.')
      if not status.st_size:
        raise UserError(f'{path} is empty.')
      return mmap.mmap(handle, 0, access=mmap.ACCESS_READ)
    finally:
      os.close(handle)
  except OSError as error:
    raise UserError(f'{path}: {error.strerror}.') from error


def view(
  buffer: mmap.mmap,
  dtype: np.dtype,
  start: int,
  size: int,
  shape: Sequence[int],
  stride: Sequence[int] | None = None,
  offset: int = 0,
) -> np.ndarray:
  """An array on `size` bytes of the file that begin at `start`.

  Args:
    buffer: the file.
    dtype: of the elements.
    start: first byte of the storage.
    size: bytes of the storage.
    shape: of the array.
    stride: in elements; contiguous if unset.
    offset: of the first element, in elements.

  Raises:
    Damaged: the array would reach outside its storage, or show an element
      more than once.
  """
  shape = _integers(shape, 'shape')
  stride = contiguous(shape) if stride is None else _integers(stride, 'stride')
  _integers((offset,), 'place')
  if len(shape) != len(stride) or len(shape) > 16:
    raise Damaged(f'a shape of {len(shape)} and {len(stride)} strides')
  if not 0 <= start <= start + size <= len(buffer):
    raise Damaged('a tensor outside the file')
  count, elements = math.prod(shape), size // dtype.itemsize
  last = offset + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
  if count and (last >= elements or count > elements):
    raise Damaged(f'a tensor {list(shape)} in a storage of {elements} elements')
  if not count:
    return np.zeros(shape, dtype)
  return np.ndarray(
    shape,
    dtype,
    buffer,
    start + offset * dtype.itemsize,
    [s * dtype.itemsize for s in stride],
  )


def _integers(values: Sequence[int], what: str) -> tuple[int, ...]:
  """Whole numbers that no arithmetic below can make overflow."""
  values = tuple(values)
  if any(type(v) is not int or not 0 <= v < 2**48 for v in values):
    raise Damaged(f'a {what} that is not made of small natural numbers')
  return values


def contiguous(shape: Sequence[int]) -> tuple[int, ...]:
  """Strides in elements, last axis fastest."""
  strides, step = [], 1
  for n in reversed(shape):
    strides.append(step)
    step *= n
  return tuple(reversed(strides))
