"""The constants of a frozen TensorFlow graph (.pb), without TensorFlow.

A GraphDef is a protocol buffer; of it only `node.attr['value'].tensor` is
looked at, and nothing is executed.
"""

import math
import mmap
from collections.abc import Iterator

import numpy as np

from ldm_jax.interop.mapped import Damaged, map_file
from ldm_jax.types import UserError

# Numbers of the fields, as TensorFlow's .proto files give them.
_NODE, _NAME, _OP, _ATTR, _KEY, _VALUE = 1, 1, 2, 5, 1, 2
_TENSOR, _DTYPE, _SHAPE, _CONTENT, _FLOATS = 8, 1, 2, 4, 5
_DIM, _SIZE = 2, 1
_FLOAT = 1
_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5


def read_constants(path: str) -> dict[str, np.ndarray]:
  """Float32 constants by the names of their nodes; copies.

  Raises:
    UserError: no file, or no graph with constants.
  """
  buffer = map_file(path)
  try:
    found = dict(_constants(buffer))
  except Damaged as error:
    raise UserError(f'{path} cannot be read: {error}.') from error
  if not found:
    raise UserError(f'{path} cannot be read: it is no frozen graph.')
  return found


def _constants(buffer: mmap.mmap) -> Iterator[tuple[str, np.ndarray]]:
  view = memoryview(buffer)
  for number, node in _fields(view):
    if number != _NODE or not isinstance(node, memoryview):
      continue
    fields = list(_fields(node))
    text = lambda wanted, fields=fields: next(
      (bytes(v).decode('utf-8', 'replace') for n, v in fields if n == wanted),
      '',
    )
    if text(_OP) != 'Const':
      continue
    for number, attr in fields:
      if number == _ATTR:
        array = _array(dict(_fields(attr)))
        if array is not None:
          yield text(_NAME), array


def _array(attr: dict) -> np.ndarray | None:
  """The tensor of an attribute called 'value', if it is one of float32."""
  if bytes(attr.get(_KEY, b'')) != b'value' or _VALUE not in attr:
    return None
  tensor = dict(_fields(attr[_VALUE])).get(_TENSOR)
  if tensor is None:
    return None
  fields = list(_fields(tensor))
  last = dict(fields)
  if last.get(_DTYPE) != _FLOAT:
    return None
  dims = [
    dict(_fields(value)).get(_SIZE, 0)
    for number, value in _fields(last.get(_SHAPE, memoryview(b'')))
    if number == _DIM
  ]
  count = math.prod(dims)
  if _CONTENT in last:
    values = _floats(last[_CONTENT])
  else:
    parts = [_floats(v) for n, v in fields if n == _FLOATS]
    values = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    if len(values) == 1 and count < 2**28:  # One value stands for all.
      values = np.repeat(values, count)
  if len(values) != count:
    raise Damaged(f'a tensor of {dims} holds {len(values)} numbers')
  return values.reshape(dims).copy()


def _floats(raw: memoryview) -> np.ndarray:
  if not isinstance(raw, memoryview) or len(raw) % 4:
    raise Damaged('a tensor is cut off')
  return np.frombuffer(raw, '<f4')


def _fields(message) -> Iterator[tuple[int, memoryview | int]]:
  """(number, bytes or integer) of each field of a message."""
  if not isinstance(message, memoryview):
    raise Damaged('it is no protocol buffer')
  at, end = 0, len(message)
  while at < end:
    tag, at = _varint(message, at)
    number, kind = tag >> 3, tag & 7
    if kind == _VARINT:
      value, at = _varint(message, at)
    elif kind in (_BYTES, _FOUR, _EIGHT):
      size = {_FOUR: 4, _EIGHT: 8}.get(kind)
      if size is None:
        size, at = _varint(message, at)
      if size > end - at:
        raise Damaged('it is cut off')
      value, at = message[at : at + size], at + size
    else:
      raise Damaged('it is no protocol buffer')
    yield number, value


def _varint(message: memoryview, at: int) -> tuple[int, int]:
  value = 0
  for shift in range(0, 64, 7):
    if at >= len(message):
      raise Damaged('it is cut off')
    byte, at = message[at], at + 1
    value |= (byte & 127) << shift
    if byte < 128:
      return value, at
  raise Damaged('it is no protocol buffer')
