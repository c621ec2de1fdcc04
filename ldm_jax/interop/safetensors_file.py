"""Safetensors in place: a JSON header, then the tensors' bytes.

The library copies what it reads, and all of it at once what it writes; and
its numpy half has no bfloat16.
"""

import json
import math
import mmap
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from ldm_jax.interop.mapped import BFLOAT16, Damaged, view
from ldm_jax.types import UserError

DTYPES = {
  'F64': np.dtype('<f8'),
  'F32': np.dtype('<f4'),
  'F16': np.dtype('<f2'),
  'BF16': BFLOAT16,
  'I64': np.dtype('<i8'),
  'I32': np.dtype('<i4'),
  'I16': np.dtype('<i2'),
  'I8': np.dtype('i1'),
  'U8': np.dtype('u1'),
  'BOOL': np.dtype('?'),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_LARGEST_HEADER = 16 * 2**20  # Bytes.


def is_safetensors(buffer: mmap.mmap) -> bool:
  """Whether the file begins as one: a size, then JSON."""
  return buffer[8:9] == b'{'


def read(buffer: mmap.mmap) -> dict[str, np.ndarray]:
  """The tensors of a mapped file, as views of it.

  Raises:
    Damaged: truncated or inconsistent.
  """
  if len(buffer) < 8:
    raise Damaged('it is cut off')
  (size,) = struct.unpack_from('<Q', buffer, 0)
  if size > _LARGEST_HEADER:
    raise Damaged(f'a header of {size:,} bytes')
  if 8 + size > len(buffer):
    raise Damaged('it is cut off')
  header = _header(buffer[8 : 8 + size])
  body, end, tensors = 8 + size, 0, {}
  try:
    fields = [
      (name, *_fields(value))
      for name, value in header.items()
      if name != '__metadata__'
    ]
  except (KeyError, TypeError, ValueError, AttributeError) as error:
    raise Damaged('its header is damaged') from error
  # The bytes are covered once, without holes: what the format promises.
  for name, dtype, shape, (first, last) in sorted(fields, key=lambda f: f[3]):
    if not name.isprintable() or len(name) > 1000:
      raise Damaged(f'a tensor is called {name[:50]!r}')
    if first != end or last - first != math.prod(shape) * dtype.itemsize:
      raise Damaged(f'{name} does not lie where its shape says')
    tensors[name] = view(buffer, dtype, body + first, last - first, shape)
    end = last
  if body + end != len(buffer):
    raise Damaged('it is cut off, or longer than its header says')
  if not tensors:
    raise Damaged('it holds no tensors')
  return tensors


def _header(raw: bytes) -> dict[str, Any]:
  def once(pairs):
    if len({key for key, _ in pairs}) != len(pairs):
      raise ValueError('a name twice')
    return dict(pairs)

  try:
    header = json.loads(raw.decode(), object_pairs_hook=once)
  except (ValueError, RecursionError) as error:
    raise Damaged('its header is damaged') from error
  if not isinstance(header, dict):
    raise Damaged('its header is damaged')
  return header


def _fields(value: dict) -> tuple[np.dtype, list[int], tuple[int, int]]:
  dtype, shape = value['dtype'], value['shape']
  first, last = value['data_offsets']
  if dtype not in DTYPES:
    raise Damaged(f'a tensor of type {dtype!r:.50}')
  numbers = [*shape, first, last]
  if len(shape) > 16 or any(
    type(n) is not int or not 0 <= n < 2**48 for n in numbers
  ):
    raise ValueError('a size')
  return DTYPES[dtype], shape, (first, last)


def write(
  path: str, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
  """Writes the tensors one by one, widest types first, as the library does.

  Raises:
    UserError: a type that the format lacks.
  """
  order = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))
  header: dict[str, Any] = {'__metadata__': dict(metadata)}
  end = 0
  for name in order:
    x = tensors[name]
    if x.dtype not in _NAMES:
      raise UserError(f'{name} is {x.dtype}, which safetensors cannot hold.')
    header[name] = {
      'dtype': _NAMES[x.dtype],
      'shape': list(x.shape),
      'data_offsets': [end, end + x.nbytes],
    }
    end += x.nbytes
  raw = json.dumps(header, separators=(',', ':')).encode()
  raw += b' ' * (-len(raw) % 8)  # Tensors begin at a multiple of 8.
  with open(path, 'wb') as f:
    f.write(struct.pack('<Q', len(raw)) + raw)
    for name in order:
      flat = np.ascontiguousarray(tensors[name]).reshape(-1)
      f.write(memoryview(flat.view(np.uint8)))
