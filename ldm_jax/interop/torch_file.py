"""Reads what torch.save wrote, without torch and without running any of it.

Both formats: a zip of one pickle and the tensors' bytes (since PyTorch 1.6),
and before it pickles and bytes one after the other ("legacy"). Tensors are
views of the mapped file.
"""

import io
import mmap
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ldm_jax.interop import zip_index
from ldm_jax.interop.inert_pickle import LARGEST, Interpreter, Name, Opaque
from ldm_jax.interop.mapped import BFLOAT16, Damaged, view

DTYPES = {
  'torch.DoubleStorage': np.dtype('<f8'),
  'torch.FloatStorage': np.dtype('<f4'),
  'torch.HalfStorage': np.dtype('<f2'),
  'torch.BFloat16Storage': BFLOAT16,
  'torch.LongStorage': np.dtype('<i8'),
  'torch.IntStorage': np.dtype('<i4'),
  'torch.ShortStorage': np.dtype('<i2'),
  'torch.CharStorage': np.dtype('i1'),
  'torch.ByteStorage': np.dtype('u1'),
  'torch.BoolStorage': np.dtype('?'),
}
# Trainers write such things beside the tensors: callbacks, settings, numbers.
_BUILTINS = (
    'bool', 'bytes', 'bytearray', 'complex', 'dict', 'float', 'frozenset',
    'int', 'list', 'object', 'set', 'slice', 'str', 'tuple',
)  # fmt: skip
INERT = (
    'pytorch_lightning.', 'lightning.', 'lightning_fabric.', 'omegaconf.',
    'torch.optim.', 'ldm.', 'taming.', 'main.', 'numpy.dtype',
    'numpy.ndarray', 'numpy.core.multiarray.', 'numpy._core.multiarray.',
    'argparse.Namespace',
    'collections.defaultdict', 'collections.Counter', 'collections.deque',
    'pathlib.PosixPath', 'pathlib.WindowsPath', 'pathlib.PurePosixPath',
    'copyreg._reconstructor', 'copy_reg._reconstructor', 'typing.Any',
    'datetime.', '_codecs.encode', 'torch.device', 'torch.float',
    'torch.bfloat16', 'torch.half', 'torch.double', 'torch.int', 'torch.long',
    'torch.short', 'torch.uint8', 'torch.bool', *DTYPES,
    *(f'builtins.{name}' for name in _BUILTINS),
    *(f'__builtin__.{name}' for name in _BUILTINS),
)  # fmt: skip
_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_LONGEST_NAME = 1000


class Storage(NamedTuple):
  """A run of elements that tensors are cut from."""

  key: str
  dtype: np.dtype
  count: int


class Tensor(NamedTuple):
  """A tensor's place in a storage, in elements."""

  storage: Storage
  offset: int
  shape: Sequence[int]
  stride: Sequence[int]


def read(buffer: mmap.mmap, legacy: bool) -> dict[str, np.ndarray]:
  """The tensors of a mapped .ckpt, .pt or .pth by name.

  Those under 'state_dict', where there is one, else those at the top.

  Raises:
    Damaged: truncated, inconsistent or absurd; written in the legacy format
      while `legacy` is not set; or a pickle that asks for anything but tensors.
  """
  if buffer[:4] == b'PK\3\4':
    return _read_zip(buffer)
  if buffer[:1] != b'\x80':
    raise Damaged('it is neither a PyTorch file nor .safetensors')
  if not legacy:
    raise Damaged(
      'it is in the format that PyTorch wrote before 1.6; --legacy reads it'
    )
  return _read_legacy(buffer)


# --- The zip format. ---


def _read_zip(buffer) -> dict[str, np.ndarray]:
  entries = zip_index.index(buffer)
  pickles = [
    n for n in entries if n.count('/') == 1 and n.endswith('/data.pkl')
  ]
  if len(pickles) != 1:
    raise Damaged(
      f'it is a zip file, but no PyTorch file: {len(pickles)} data.pkl'
    )
  root = pickles[0].partition('/')[0]
  if f'{root}/constants.pkl' in entries:
    raise Damaged('it is a TorchScript program, not a file of tensors')
  order = entries.get(f'{root}/byteorder')
  if order and buffer[order.start : order.start + order.size] != b'little':
    raise Damaged('it was written on a big-endian machine')
  content = _load(_pickle_of(buffer, entries[pickles[0]]), _zip_storage)
  checked: set[str] = set()

  def place(storage: Storage) -> tuple[int, int]:
    name = f'{root}/data/{storage.key}'
    if name not in entries:
      raise Damaged(f'the storage {name!r} is missing')
    entry = entries[name]
    if entry.size != storage.count * storage.dtype.itemsize:
      raise Damaged(f'{name!r} has not the size that its tensors say')
    if name not in checked:
      zip_index.verify(buffer, entry, name)
      checked.add(name)
    return entry.start, entry.size

  return _views(buffer, content, place)


def _pickle_of(buffer, entry: zip_index.Entry) -> io.BytesIO:
  if entry.size > LARGEST:
    raise Damaged(f'a pickle of {entry.size:,} bytes')
  zip_index.verify(buffer, entry, 'data.pkl')
  return io.BytesIO(buffer[entry.start : entry.start + entry.size])


def _zip_storage(persistent_id: Any) -> Storage:
  kind, name, key, _, count = persistent_id
  return _storage(kind, name, key, count)


def _storage(kind, name, key, count) -> Storage:
  if kind != 'storage' or not isinstance(name, Name) or type(key) is not str:
    raise TypeError('storage')
  if name.name not in DTYPES:
    raise Damaged(f'a storage of type {name.name!r}')
  if type(count) is not int or not 0 <= count < 2**48:
    raise Damaged('a storage of no possible size')
  return Storage(key, DTYPES[name.name], count)


# --- The legacy format. ---


def _read_legacy(buffer) -> dict[str, np.ndarray]:
  # Five pickles: magic number, protocol, the writer's machine, content, keys.
  stream = io.BytesIO(buffer[:LARGEST])
  if _load(stream) != _MAGIC or _load(stream) != _PROTOCOL:
    raise Damaged('it is a pickle, but no PyTorch file')
  machine = _load(stream)
  if isinstance(machine, dict) and machine.get('little_endian') is False:
    raise Damaged('it was written on a big-endian machine')
  storages: dict[str, Storage] = {}

  def storage(persistent_id):
    kind, name, key, _, count, part = persistent_id
    if part is not None:
      raise Damaged("its storages overlap; save it again with today's PyTorch")
    return storages.setdefault(key, _storage(kind, name, key, count))

  content = _load(stream, storage)
  keys = _load(stream)
  if not isinstance(keys, list) or any(k not in storages for k in keys):
    raise Damaged('its list of storages is damaged')
  at, places = stream.tell(), {}
  for key in keys:
    if at + 8 > len(buffer):
      raise Damaged('it is cut off')
    (count,) = struct.unpack_from('<q', buffer, at)
    if count != storages[key].count:
      raise Damaged(f'the storage {key!r} has not the size that it should')
    size = count * storages[key].dtype.itemsize
    if at + 8 + size > len(buffer):
      raise Damaged('it is cut off')
    places[key] = at + 8, size
    at += 8 + size

  def place(storage: Storage) -> tuple[int, int]:
    if storage.key not in places:
      raise Damaged(f'the storage {storage.key!r} is missing')
    return places[storage.key]

  return _views(buffer, content, place)


# --- The pickle's content. ---


def _load(stream: io.BytesIO, persistent: Callable | None = None) -> Any:
  def none(_):
    raise TypeError('persistent id')

  return Interpreter(_CALLS, INERT, persistent or none).load(stream)


def _ordered_dict(items: Sequence = ()) -> dict:
  pairs = [(key, value) for key, value in items]
  if any(type(key) is not str for key, _ in pairs):
    raise TypeError('key')
  return dict(pairs)


def _tensor_v1(storage, offset, shape, stride) -> Tensor:
  if not isinstance(storage, Storage):
    raise TypeError('tensor')
  return Tensor(storage, offset, shape, stride)


def _tensor_v2(
  storage, offset, shape, stride, requires_grad, hooks, metadata=None
) -> Tensor:
  del requires_grad, hooks, metadata
  return _tensor_v1(storage, offset, shape, stride)


def _parameter(data, *rest) -> Any:
  del rest
  if not isinstance(data, (Tensor, Opaque)):
    raise TypeError('parameter')
  return data


_CALLS: Mapping[str, Callable] = {
  'collections.OrderedDict': _ordered_dict,
  'torch.Size': lambda shape=(): tuple(shape),
  'torch._utils._rebuild_tensor': _tensor_v1,
  'torch._utils._rebuild_tensor_v2': _tensor_v2,
  'torch._utils._rebuild_parameter': _parameter,
  'torch._utils._rebuild_parameter_with_state': _parameter,
}


def _views(buffer, content: Any, place: Callable) -> dict[str, np.ndarray]:
  """The content's tensors as views of the file."""
  if isinstance(content, dict) and isinstance(content.get('state_dict'), dict):
    content = content['state_dict']
  if not isinstance(content, dict):
    raise Damaged('it holds no state_dict')
  tensors = {}
  for name, value in content.items():
    if not isinstance(value, Tensor):
      continue
    if (
      type(name) is not str
      or len(name) > _LONGEST_NAME
      or not name.isprintable()
    ):
      raise Damaged(f'a tensor is called {str(name)[:50]!r}')
    start, size = place(value.storage)
    dtype = value.storage.dtype
    tensors[name] = view(
      buffer, dtype, start, size, value.shape, value.stride, value.offset
    )
  if not tensors:
    raise Damaged('it holds no tensors')
  return tensors
