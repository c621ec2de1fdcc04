"""Where a zip's entries lie."""

import io
import struct
import zipfile

import pytest

from ldm_jax.interop import zip_index
from ldm_jax.interop.mapped import Damaged

ENTRIES = {'a/data.pkl': b'x' * 100, 'a/data/0': bytes(range(256)), 'b': b''}


class Mapped(bytes):
  """Stands for an mmap, whose slices are bytes too."""


def archive(zip64: bool = False, comment: bytes = b'') -> Mapped:
  file = io.BytesIO()
  with zipfile.ZipFile(file, 'w') as z:
    for name, data in ENTRIES.items():
      with z.open(name, 'w', force_zip64=zip64) as entry:
        entry.write(data)
    z.comment = comment
  return Mapped(file.getvalue())


@pytest.mark.parametrize('zip64', [False, True])
@pytest.mark.parametrize('comment', [b'', b'PK\5 a comment' * 99])
def test_entries_are_where_it_says(zip64, comment):
  data = archive(zip64, comment)
  entries = zip_index.index(data)
  assert entries.keys() == ENTRIES.keys()
  for name, entry in entries.items():
    assert data[entry.start : entry.start + entry.size] == ENTRIES[name]
    zip_index.verify(data, entry, name)


def test_a_directory_in_64_bits():
  # As zip files over 4 GB end; the 32-bit fields say "look there".
  data = bytes(archive())
  *_, count, _, size, start, _ = struct.unpack('<4s4H2LH', data[-22:])[2:]
  count = struct.unpack('<4s4H2LH', data[-22:])[4]
  body = data[:-22]
  end64 = struct.pack(
    '<4sQ2H2L4Q', b'PK\6\6', 44, 45, 45, 0, 0, count, count, size, start
  )
  locator = struct.pack('<4sLQL', b'PK\6\7', 0, len(body), 1)
  end = struct.pack(
    '<4s4H2LH', b'PK\5\6', 0, 0, 2**16 - 1, 2**16 - 1, 2**32 - 1, 2**32 - 1, 0
  )
  entries = zip_index.index(Mapped(body + end64 + locator + end))
  assert entries == zip_index.index(Mapped(data))


def test_every_cut_is_noticed():
  data = archive()
  for end in range(0, len(data), 3):
    with pytest.raises(Damaged):
      zip_index.index(Mapped(data[:end]))


def test_a_changed_byte_is_noticed():
  data = bytearray(archive())
  entry = zip_index.index(Mapped(data))['a/data/0']
  data[entry.start + 100] ^= 1
  with pytest.raises(Damaged, match='a/data/0.*checksum'):
    zip_index.verify(Mapped(data), entry, 'a/data/0')


def test_too_many_entries_are_not_looked_at(monkeypatch):
  monkeypatch.setattr(zip_index, '_MOST_ENTRIES', 2)
  with pytest.raises(Damaged, match='3 entries'):
    zip_index.index(archive())
