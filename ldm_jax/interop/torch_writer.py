"""Writes a .ckpt that torch.load opens, weights_only included, without torch.

The zip format: one pickle (protocol 2, the few opcodes that it needs) and each
tensor's bytes, stored and aligned as PyTorch does.
"""

import pickle
import struct
import zipfile
from collections.abc import Mapping

import numpy as np

from ldm_jax.interop.mapped import BFLOAT16, contiguous
from ldm_jax.types import UserError

STORAGES = {
  np.dtype('<f8'): 'DoubleStorage',
  np.dtype('<f4'): 'FloatStorage',
  np.dtype('<f2'): 'HalfStorage',
  BFLOAT16: 'BFloat16Storage',
  np.dtype('<i8'): 'LongStorage',
  np.dtype('<i4'): 'IntStorage',
  np.dtype('u1'): 'ByteStorage',
  np.dtype('?'): 'BoolStorage',
}
_ALIGNMENT = 64


def write(
  path: str, tensors: Mapping[str, np.ndarray], global_step: int = 0
) -> None:
  """Writes {'state_dict': tensors, 'global_step': ...}, as Lightning does.

  Raises:
    UserError: a type that is not PyTorch's.
  """
  for name, x in tensors.items():
    if x.dtype not in STORAGES:
      raise UserError(f'{name} is {x.dtype}, which PyTorch cannot hold.')
  with zipfile.ZipFile(path, 'w', zipfile.ZIP_STORED) as archive:
    _add(archive, 'archive/data.pkl', _pickled(tensors, global_step))
    _add(archive, 'archive/byteorder', b'little')
    for key, x in enumerate(tensors.values()):
      data = np.ascontiguousarray(x).reshape(-1).view(np.uint8)
      _add(archive, f'archive/data/{key}', memoryview(data))
    _add(archive, 'archive/version', b'3\n')


def _add(archive: zipfile.ZipFile, name: str, data) -> None:
  """An entry whose bytes begin at a multiple of 64, for mapping."""
  info = zipfile.ZipInfo(name)  # Dated 1980: the same bytes every time.
  header = 30 + len(name)
  big = len(data) > 2**31
  if big:  # zipfile puts the 64-bit sizes before our padding.
    header += 20
  start = archive.fp.tell() + header + 4
  padding = -start % _ALIGNMENT
  info.extra = struct.pack('<2sH', b'FB', padding) + bytes(padding)
  with archive.open(info, 'w', force_zip64=big) as entry:
    entry.write(data)


# --- The pickle, opcode by opcode. ---


def _text(value: str) -> bytes:
  encoded = value.encode()
  return pickle.BINUNICODE + struct.pack('<I', len(encoded)) + encoded


def _int(value: int) -> bytes:
  if 0 <= value < 2**31:
    return pickle.BININT + struct.pack('<i', value)
  return pickle.LONG1 + b'\x08' + struct.pack('<q', value)


def _tuple(*items: bytes) -> bytes:
  return pickle.MARK + b''.join(items) + pickle.TUPLE


def _name(module: str, name: str) -> bytes:
  return pickle.GLOBAL + f'{module}\n{name}\n'.encode()


def _tensor(key: int, x: np.ndarray) -> bytes:
  storage = _tuple(
    _text('storage'),
    _name('torch', STORAGES[x.dtype]),
    _text(str(key)),
    _text('cpu'),
    _int(x.size),
  )
  hooks = _name('collections', 'OrderedDict') + pickle.EMPTY_TUPLE
  arguments = _tuple(
    storage + pickle.BINPERSID,
    _int(0),
    _tuple(*map(_int, x.shape)),
    _tuple(*map(_int, contiguous(x.shape))),
    pickle.NEWFALSE,
    hooks + pickle.REDUCE,
  )
  rebuild = _name('torch._utils', '_rebuild_tensor_v2')
  return rebuild + arguments + pickle.REDUCE


def _pickled(tensors: Mapping[str, np.ndarray], global_step: int) -> bytes:
  state = b''.join(
    _text(name) + _tensor(key, x)
    for key, (name, x) in enumerate(tensors.items())
  )
  return b''.join((
      pickle.PROTO + b'\x02',
      pickle.EMPTY_DICT, pickle.MARK,
      _text('state_dict'),
      pickle.EMPTY_DICT, pickle.MARK, state, pickle.SETITEMS,
      _text('global_step'), _int(global_step),
      pickle.SETITEMS, pickle.STOP,
  ))  # fmt: skip
