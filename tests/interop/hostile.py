"""Files that attack or are damaged, made byte by byte and without torch.

`ZIPS`, `LEGACY`, `SAFETENSORS` and `OTHERS` are name -> bytes. Whatever would
run in them touches the file that `marker` names.
"""

import io
import json
import pickle
import struct
import zipfile

import numpy as np

VALUES = np.arange(6, dtype=np.float32).reshape(2, 3)
# Relative: a test runs in an empty folder and looks whether it is there.
MARKER = 'executed'
COMMAND = f'touch {MARKER}'


# --- Pickles, by hand. ---


def text(value: str) -> bytes:
  raw = value.encode()
  return b'X' + struct.pack('<I', len(raw)) + raw


def number(value: int) -> bytes:
  if -(2**31) <= value < 2**31:
    return b'J' + struct.pack('<i', value)
  return b'\x8a\x09' + value.to_bytes(9, 'little', signed=True)


def name(module: str, attribute: str) -> bytes:
  return f'c{module}\n{attribute}\n'.encode()


def tup(*items: bytes) -> bytes:
  return b'(' + b''.join(items) + b't'


def call(function: bytes, *arguments: bytes) -> bytes:
  return function + tup(*arguments) + b'R'


def storage(
  key: str = '0', kind: str = 'FloatStorage', count: int = 6, legacy=False
) -> bytes:
  parts = [text('storage'), name('torch', kind), text(key), text('cpu')]
  return tup(*parts, number(count), *([b'N'] if legacy else [])) + b'Q'


def tensor(
  shape=(2, 3), stride=(3, 1), offset=0, store: bytes | None = None
) -> bytes:
  return call(
    name('torch._utils', '_rebuild_tensor_v2'),
    storage() if store is None else store,
    number(offset),
    tup(*map(number, shape)),
    tup(*map(number, stride)),
    b'\x89',
    name('collections', 'OrderedDict') + b')R',
  )


def mapping(**items: bytes) -> bytes:
  return b'}(' + b''.join(text(k) + v for k, v in items.items()) + b'u'


def pickled(body: bytes) -> bytes:
  return b'\x80\x02' + body + b'.'


# --- Archives. ---


def archive(
  data_pkl: bytes,
  entries: dict[str, bytes] | None = None,
  compression: int = zipfile.ZIP_STORED,
) -> bytes:
  if entries is None:
    entries = {'archive/data/0': VALUES.tobytes()}
  file = io.BytesIO()
  with zipfile.ZipFile(file, 'w', compression) as z:
    z.writestr('archive/data.pkl', data_pkl)
    for entry, data in entries.items():
      z.writestr(entry, data)
    z.writestr('archive/version', b'3\n')
  return file.getvalue()


def of(body: bytes, **kwargs) -> bytes:
  return archive(pickled(body), **kwargs)


GOOD = of(mapping(x=tensor()))


def patched(data: bytes, old: bytes, new: bytes, last: bool = False) -> bytes:
  at = data.rfind(old) if last else data.find(old)
  assert at >= 0
  return data[:at] + new + data[at + len(new) :]


def _pair(first: bytes, second: bytes) -> bytes:
  """Two entries of one name; zipfile would warn."""
  data = of(mapping(x=tensor()), entries={
      'archive/data/0': first, 'archive/data/1': second,
  })  # fmt: skip
  return data.replace(b'archive/data/1', b'archive/data/0')


def _two_pickles() -> bytes:
  return archive(
    pickled(mapping(x=tensor())), {'other/data.pkl': pickled(b'}')}
  )


SYSTEM = name('posix', 'system')
RUN = text(COMMAND)

CODE = {
  'os.system': call(SYSTEM, RUN),
  'os.system as os': call(name('os', 'system'), RUN),
  'eval': call(
    name('builtins', 'eval'), text(f'open({MARKER!r}, "w").close()')
  ),
  'exec through a stack global': text('builtins')
  + text('exec')
  + b'\x93'
  + tup(text(f'open({MARKER!r}, "w").close()'))
  + b'R',
  'open for writing': call(name('io', 'open'), text(MARKER), text('w')),
  'Popen by NEWOBJ': name('subprocess', 'Popen')
  + tup(tup(text('touch'), text(MARKER)))
  + b'\x81',
  'NEWOBJ_EX': b'\x80\x04'
  + name('subprocess', 'Popen')
  + tup(tup(text('touch'), text(MARKER)))
  + b'}\x92',
  'INST': b'(' + RUN + b'iposix\nsystem\n',
  'OBJ': b'(' + SYSTEM + RUN + b'o',
  'pickle in a pickle': call(
    name('_pickle', 'loads'), b'U' + bytes([4]) + b'cos\n'
  ),
  'getattr': call(
    name('builtins', 'getattr'), name('collections', 'OrderedDict'), RUN
  ),
  'a name with dots': call(
    name('torch._utils', '_rebuild_tensor_v2.__globals__.get'), RUN
  ),
  'torch.hub': call(name('torch.hub', 'load'), text('a/b'), text('c')),
  'torch.load': call(name('torch', 'load'), text('x')),
  'numpy.load': call(name('numpy', 'load'), text('x')),
  'import_module': call(
    name('importlib', 'import_module'), text('antigravity')
  ),
  'runpy': call(name('runpy', 'run_path'), text('x.py')),
  'a browser': call(name('webbrowser', 'open'), text('http://localhost')),
  'ctypes': call(name('ctypes', 'CDLL'), text('libc.so.6')),
  'a whole module': call(name('torch.nn.modules.linear', 'Linear'), number(1)),
  'a name alone, not called': SYSTEM,
  'state set on a class': name('collections', 'OrderedDict') + b'}b',
  'an extension': b'\x82\x01',
  'a persistent id as text': b'P0\n',
  'an out-of-band buffer': b'\x97',
}

STACK = {
  'a memo entry that is not there': b'h\x07',
  'a memo entry called': RUN + b'q\x01' + b'h\x01' + tup() + b'R',
  'an empty stack': b'R',
  'an empty stack under SETITEMS': b'(u',
  'an odd dict': b'}(' + text('a') + b'u',
  'a list as key': b'}(]' + text('a') + b'u',
  'tuples 200,000 deep as key': b'}(' + b')' + b'\x85' * 200_000 + b'Nu',
  'keys that collide': b'}('
  + b''.join(
    b'\x8a\x0b' + (i * (2**61 - 1)).to_bytes(11, 'little') + b'N'
    for i in range(1, 9)
  )
  + b'u',
  'a million dicts': b'}' * 1_100_000,
  'a string of 2 GB that is not there': b'B' + struct.pack('<I', 2**31 - 1),
  'bytes of 2**62': b'\x8e' + struct.pack('<Q', 2**62),
  'a negative length': b'\x8b' + struct.pack('<i', -5),
  'a frame of 2**60': b'\x95' + struct.pack('<Q', 2**60) + b'\x8e',
  'an unknown opcode': b'\xff',
  'a number with a million digits': b'L' + b'9' * 1_000_000 + b'L\n',
  'no state_dict': b']',
  'a dict of no tensors': b'}' + text('a') + b'Ns',
  'a dict that holds itself': b'}q\x00' + text('state_dict') + b'h\x00s',
  'a tensor of arguments that are none': call(
    name('torch._utils', '_rebuild_tensor_v2'), b'N', b'N', b'N', b'N',
  ),
  'a parameter of a string': mapping(
    x=call(name('torch._utils', '_rebuild_parameter'), RUN, b'\x88', b'N')
  ),
}  # fmt: skip

TENSORS = {
  'a huge shape': tensor((2**40, 2**40), (1, 1)),
  'a shape beyond the storage': tensor((2, 4), (4, 1)),
  'a stride beyond the storage': tensor((2, 3), (4, 1)),
  'a negative stride': tensor((2, 3), (-3, 1), offset=3),
  'a negative offset': tensor(offset=-1),
  'an offset beyond the storage': tensor(offset=1),
  'a negative size': tensor((-2, -3)),
  'one element shown a billion times': tensor((2**30,), (0,)),
  'more strides than sizes': tensor((6,), (1, 1)),
  'a thousand dimensions': tensor((1,) * 1000, (1,) * 1000),
  'a storage outside the archive': tensor(store=storage('../../data/0')),
  'an absolute path': tensor(store=storage('/etc/passwd')),
  'a storage that is not there': tensor(store=storage('1')),
  'a storage longer than its bytes': tensor(store=storage(count=7)),
  'a storage of 2**60 elements': tensor(store=storage(count=2**60)),
  'a storage of -1 elements': tensor(store=storage(count=-1)),
  'a storage of another width': tensor(store=storage(kind='DoubleStorage')),
  'a quantised storage': tensor(store=storage(kind='QInt8Storage')),
  'a storage that is a string': tensor(store=RUN),
}

ZIPS = {
  **{f'code: {k}': of(mapping(x=tensor(), y=v)) for k, v in CODE.items()},
  **{f'pickle: {k}': of(v) for k, v in STACK.items()},
  **{f'tensor: {k}': of(mapping(x=v)) for k, v in TENSORS.items()},
  'a name with an escape sequence': of(
    b'}(' + text('\x1b[2Jx') + tensor() + b'u'
  ),
  'a name of a megabyte': of(b'}(' + text('x' * 2**20) + tensor() + b'u'),
  'a pickle without an end': archive(b'\x80\x02' + mapping(x=tensor())),
  'an empty pickle': archive(b''),
  'two entries of one name': _pair(VALUES.tobytes(), bytes(24)),
  'two pickles': _two_pickles(),
  'no pickle': GOOD.replace(b'data.pkl', b'data.pki'),
  'a TorchScript program': archive(
    pickled(mapping(x=tensor())),
    {'archive/data/0': VALUES.tobytes(), 'archive/constants.pkl': b'.'},
  ),
  'big-endian': archive(
    pickled(mapping(x=tensor())),
    {'archive/data/0': VALUES.tobytes(), 'archive/byteorder': b'big'},
  ),
  'compressed': archive(
    pickled(mapping(x=tensor())),
    {'archive/data/0': bytes(24)},
    zipfile.ZIP_DEFLATED,
  ),
  'a flipped bit in the weights': patched(
    GOOD, VALUES.tobytes(), b'\x01' + VALUES.tobytes()[1:]
  ),
  'a flipped bit in the pickle': patched(GOOD, b'storage', b'storagf'),
  'an entry under another name': patched(
    GOOD, b'archive/data/0', b'archive/data/9'
  ),
  'a directory of 65,000 entries': patched(
    GOOD, GOOD[-14:-10], struct.pack('<HH', 65000, 65000), last=True
  ),
  'a directory beyond the file': GOOD[:-6] + struct.pack('<LH', 2**31, 0),
  'a directory at the wrong place': GOOD[:-6] + struct.pack('<LH', 7, 0),
  'an encrypted entry': patched(
    GOOD, b'PK\1\2\x14\x03\x14\0\0', b'PK\1\2\x14\x03\x14\0\1', last=True
  ),
  'an entry beyond the file': patched(
    GOOD, GOOD[-22 - 15 - 4 : -22 - 15], struct.pack('<L', 2**31), last=True
  ),
  **{
    f'cut off after {share:.0%}': GOOD[: int(len(GOOD) * share)]
    for share in (0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99)
  },
  'its last byte cut off': GOOD[:-1],
}


# --- The legacy format. ---

MAGIC = pickled(b'\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19')
PROTOCOL = pickled(b'M\xe9\x03')
MACHINE = pickled(mapping(little_endian=b'\x88'))


def legacy(
  body: bytes, keys: bytes = b'](X\1\0\0\x000e', count: int = 6, data=VALUES
) -> bytes:
  return b''.join((
      MAGIC, PROTOCOL, MACHINE, pickled(body), pickled(keys),
      struct.pack('<q', count), data.tobytes(),
  ))  # fmt: skip


OLD = mapping(x=tensor(store=storage(legacy=True)))
GOOD_LEGACY = legacy(OLD)
LEGACY = {
  'code': legacy(mapping(x=call(SYSTEM, RUN))),
  'code instead of the magic number': pickled(call(SYSTEM, RUN)),
  'code instead of the keys': legacy(OLD, call(SYSTEM, RUN)),
  'another pickle': pickle.dumps({'a': 1}, 2),
  'another protocol': MAGIC + pickled(b'K\x07') + MACHINE + pickled(OLD),
  'a list of keys that is none': legacy(OLD, b'}'),
  'a key that no tensor has': legacy(OLD, b'](X\1\0\0\x009e'),
  'no keys': legacy(OLD, b']'),
  'a negative count': legacy(OLD, count=-6),
  'a count too large': legacy(OLD, count=2**50),
  'cut off in the weights': GOOD_LEGACY[:-1],
  'cut off before the weights': GOOD_LEGACY[:-25],
  'cut off in the pickle': GOOD_LEGACY[:150],
  'big-endian': GOOD_LEGACY.replace(b'little_endian\x88', b'little_endian\x89'),
  'a shape beyond the storage': legacy(
    mapping(x=tensor((3, 3), store=storage(legacy=True)))
  ),
}


# --- .safetensors. ---


def safetensors(header: object, data: bytes = VALUES.tobytes()) -> bytes:
  raw = header if isinstance(header, bytes) else json.dumps(header).encode()
  return struct.pack('<Q', len(raw)) + raw + data


def entry(dtype='F32', shape=(2, 3), offsets=(0, 24)) -> dict:
  return {'dtype': dtype, 'shape': shape, 'data_offsets': offsets}


GOOD_SAFETENSORS = safetensors({'x': entry()})
SAFETENSORS = {
  'a header of 2**60 bytes': struct.pack('<Q', 2**60) + b'{' + bytes(99),
  'a header beyond the file': struct.pack('<Q', 999) + b'{}' + bytes(9),
  'no JSON': safetensors(b'{nothing}'),
  'JSON nested 100,000 deep': safetensors(b'{"x":' + b'[' * 100_000),
  'a name twice': safetensors(
    b'{"x":%b,"x":%b}' % ((json.dumps(entry()).encode(),) * 2)
  ),
  'tensors that overlap': safetensors({'x': entry(), 'y': entry()}),
  'a hole': safetensors({'x': entry(shape=[5], offsets=[4, 24])}),
  'a shape of another size': safetensors({'x': entry(shape=[2, 4])}),
  'a huge shape': safetensors({'x': entry(shape=[2**40, 2**40])}),
  'a number of a thousand digits': safetensors(
    b'{"x":{"dtype":"F32","shape":[%b],"data_offsets":[0,24]}}' % (b'9' * 1000)
  ),
  'a negative size': safetensors({'x': entry(shape=[-2, -3])}),
  'a negative offset': safetensors({'x': entry(offsets=[-24, 0])}),
  'offsets beyond the file': safetensors(
    {'x': entry(shape=[12], offsets=[0, 48])}
  ),
  'an unknown type': safetensors({'x': entry(dtype='F4')}),
  'a type that is a list': safetensors({'x': entry(dtype=['F32'])}),
  'a shape of booleans': safetensors({'x': entry(shape=[True, 6])}),
  'a shape that is text': safetensors({'x': entry(shape='23')}),
  'an entry that is no mapping': safetensors({'x': 3}),
  'a million dimensions': safetensors({'x': entry(shape=[1] * 1_000_000)}),
  'bytes left over': safetensors({'x': entry()}, VALUES.tobytes() + b'abc'),
  'cut off': GOOD_SAFETENSORS[:-1],
  'a name with an escape sequence': safetensors({'\x1b[2J': entry()}),
  'no tensors': safetensors({}, b''),
}

OTHERS = {
  'empty': b'',
  'three bytes': b'abc',
  'text': b'<html>404 Not Found</html>' * 100,
  'a zip that is none': b'PK\3\4' + bytes(1000),
  'a pickle with no end': b'\x80\x02' + b'}' * 100,
}
