"""Where the entries of a zip archive lie, for reading them in place.

zipfile would build an object per entry before anything could be checked; this
reads the directory with limits, and gives offsets instead of copies.
"""

import struct
import zlib
from typing import NamedTuple

from ldm_jax.interop.mapped import Damaged

_MOST_ENTRIES = 200_000
_LARGEST_DIRECTORY = 64 * 2**20  # Bytes.
_CHUNK = 2**24

_END = struct.Struct('<4s4H2LH')
_END64 = struct.Struct('<4sQ2H2L4Q')
_LOCATOR64 = struct.Struct('<4sLQL')
_ENTRY = struct.Struct('<4s6H3L5H2L')
_LOCAL = struct.Struct('<4s5H3L2H')


class Entry(NamedTuple):
  """An entry's bytes: buffer[start : start + size]."""

  start: int
  size: int
  crc: int


def index(buffer) -> dict[str, Entry]:
  """The entries of a mapped archive, all of them stored uncompressed.

  Raises:
    Damaged: truncated, inconsistent, compressed, encrypted or absurdly large.
  """
  try:
    return _index(buffer)
  except struct.error as error:
    raise Damaged('its directory is cut off') from error


def verify(buffer, entry: Entry, name: str) -> None:
  """Raises Damaged where the entry's bytes do not have their checksum."""
  if not entry.crc:  # PyTorch can be told to leave checksums out.
    return
  crc = 0
  with memoryview(buffer) as whole:
    for at in range(entry.start, entry.start + entry.size, _CHUNK):
      end = min(at + _CHUNK, entry.start + entry.size)
      crc = zlib.crc32(whole[at:end], crc)
  if crc != entry.crc:
    raise Damaged(f'{name!r} does not have its checksum')


def _index(buffer) -> dict[str, Entry]:
  count, size, start = _directory(buffer)
  if count > _MOST_ENTRIES or size > _LARGEST_DIRECTORY:
    raise Damaged(f'a directory of {count:,} entries in {size:,} bytes')
  if start + size > len(buffer):
    raise Damaged('its directory lies outside the file')
  directory = buffer[start : start + size]
  entries, at = {}, 0
  for _ in range(count):
    name, entry, at = _entry(buffer, directory, at)
    if name in entries:
      raise Damaged(f'two entries are called {name!r}')
    entries[name] = entry
  return entries


def _directory(buffer) -> tuple[int, int, int]:
  """(entries, bytes, offset) of the central directory."""
  tail = max(0, len(buffer) - _END.size - 0xFFFF)
  at = buffer.rfind(b'PK\5\6', tail)
  if at < 0:
    raise Damaged('it is cut off: the zip directory at its end is missing')
  _, _, _, _, count, size, start, _ = _END.unpack_from(buffer, at)
  locator = at - _LOCATOR64.size
  if locator >= 0 and buffer[locator : locator + 4] == b'PK\6\7':
    _, _, at64, _ = _LOCATOR64.unpack_from(buffer, locator)
    if at64 + _END64.size > len(buffer) or buffer[at64 : at64 + 4] != (
      b'PK\6\6'
    ):
      raise Damaged('its zip64 directory is not where it should be')
    *_, count, size, start = _END64.unpack_from(buffer, at64)
  return count, size, start


def _entry(buffer, directory: bytes, at: int) -> tuple[str, Entry, int]:
  (
      magic, _, _, flags, method, _, _, crc, packed, size, name_size,
      extra_size, comment_size, _, _, _, start,
  ) = _ENTRY.unpack_from(directory, at)  # fmt: skip
  if magic != b'PK\1\2':
    raise Damaged('its directory is damaged')
  at += _ENTRY.size
  raw = directory[at : at + name_size]
  extra = directory[at + name_size : at + name_size + extra_size]
  at += name_size + extra_size + comment_size
  try:
    name = raw.decode()
  except UnicodeDecodeError as error:
    raise Damaged('an entry whose name is no text') from error
  if len(raw) != name_size or len(extra) != extra_size:
    raise Damaged('its directory is cut off')
  if flags & 1:
    raise Damaged(f'{name!r} is encrypted')
  size, packed, start = _zip64(extra, size, packed, start)
  if method or size != packed:
    raise Damaged(
      f'{name!r} is compressed, and PyTorch compresses nothing; save it again'
    )
  return name, Entry(_data_start(buffer, start, raw, size), size, crc), at


def _zip64(extra: bytes, *values: int) -> list[int]:
  """Values that did not fit into 32 bits stand, in order, in an extra field."""
  at, found = 0, b''
  while at + 4 <= len(extra):
    kind, size = struct.unpack_from('<HH', extra, at)
    if kind == 1:
      found = extra[at + 4 : at + 4 + size]
    at += 4 + size
  result, at = [], 0
  for value in values:
    if value == 0xFFFFFFFF:
      (value,) = struct.unpack_from('<Q', found, at)
      at += 8
    result.append(value)
  return result


def _data_start(buffer, start: int, raw: bytes, size: int) -> int:
  """Where an entry's bytes begin: after a header that repeats its name."""
  if start + _LOCAL.size > len(buffer):
    raise Damaged('an entry outside the file')
  magic, *_, name_size, extra_size = _LOCAL.unpack_from(buffer, start)
  at = start + _LOCAL.size
  if magic != b'PK\3\4' or buffer[at : at + name_size] != raw:
    raise Damaged('an entry is not where the directory says')
  at += name_size + extra_size
  if at + size > len(buffer):
    raise Damaged('it is cut off: an entry reaches beyond its end')
  return at
