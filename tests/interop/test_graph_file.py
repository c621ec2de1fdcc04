"""Constants of a graph written here, byte by byte, are found again."""

import struct

import numpy as np
import pytest

from ldm_jax.interop import graph_file
from ldm_jax.types import UserError


def varint(value):
  out = b''
  while value > 127:
    out, value = out + bytes([value & 127 | 128]), value >> 7
  return out + bytes([value])


def field(number, value):
  if isinstance(value, int):
    return varint(number << 3) + varint(value)
  return varint(number << 3 | 2) + varint(len(value)) + value


def tensor(array, dtype=1, content=True):
  dims = b''.join(field(2, field(1, n)) for n in array.shape)
  data = field(4, array.tobytes()) if content else field(5, array.tobytes())
  return field(1, dtype) + field(2, dims) + data


def node(name, op, value=b'', key=b'value'):
  attr = field(5, field(1, key) + field(2, field(8, value))) if value else b''
  kind = field(5, field(1, b'dtype') + field(2, field(6, 1)))
  return field(1, field(1, name) + field(2, op) + field(3, b'in') + kind + attr)


WEIGHTS = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def graph():
  filled = field(1, 1) + field(2, field(2, field(1, 3)))
  filled += varint(5 << 3 | 5) + struct.pack('<f', 0.5)  # Not packed.
  return (
    node(b'conv/weights', b'Const', tensor(WEIGHTS))
    + node(b'conv/bias', b'Const', tensor(WEIGHTS[0, 0], content=False))
    + node(b'filled', b'Const', filled)
    + node(b'sizes', b'Const', tensor(WEIGHTS.astype(np.int32), dtype=3))
    + node(b'conv', b'Conv2D')
  )


def test_constants_come_back(tmp_path):
  path = tmp_path / 'graph.pb'
  path.write_bytes(graph())
  found = graph_file.read_constants(str(path))
  assert set(found) == {'conv/weights', 'conv/bias', 'filled'}
  np.testing.assert_array_equal(found['conv/weights'], WEIGHTS)
  np.testing.assert_array_equal(found['conv/bias'], WEIGHTS[0, 0])
  np.testing.assert_array_equal(found['filled'], [0.5] * 3)


def test_damaged_files_are_named(tmp_path):
  path = tmp_path / 'graph.pb'
  rng = np.random.default_rng(0)
  for content in (
    graph()[:-40],
    graph()[:100],
    b'\xff' * 50,
    b'plain text',
    rng.bytes(300),
    field(1, field(2, b'MatMul')),
    node(b'w', b'Const', tensor(WEIGHTS)[:-8] + b'\0' * 4),
  ):
    path.write_bytes(content)
    with pytest.raises(UserError, match='graph.pb'):
      graph_file.read_constants(str(path))
