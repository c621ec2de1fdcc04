"""Views of a mapped file stay inside it."""

import os

import numpy as np
import pytest

from ldm_jax.interop import mapped
from ldm_jax.interop.mapped import Damaged
from ldm_jax.types import UserError

FLOAT = np.dtype('<f4')


@pytest.fixture
def buffer(tmp_path):
  path = tmp_path / 'x'
  path.write_bytes(b'head' + np.arange(12, dtype=FLOAT).tobytes() + b'tail')
  return mapped.map_file(str(path))


def test_a_view_is_the_files_bytes(buffer):
  x = mapped.view(buffer, FLOAT, 4, 48, (3, 4))
  np.testing.assert_array_equal(x, np.arange(12).reshape(3, 4))
  x = mapped.view(buffer, FLOAT, 4, 48, (4, 2), (1, 4), offset=4)
  np.testing.assert_array_equal(x, [[4, 8], [5, 9], [6, 10], [7, 11]])
  assert mapped.view(buffer, FLOAT, 4, 0, (0, 5)).shape == (0, 5)
  assert mapped.view(buffer, FLOAT, 4, 4, ()).shape == ()


@pytest.mark.parametrize(
  ('start', 'size', 'shape', 'stride', 'offset'),
  [
    (4, 48, (13,), (1,), 0),
    (4, 48, (3, 4), (5, 1), 0),
    (4, 48, (3, 4), (4, 1), 1),
    (4, 48, (100,), (0,), 0),
    (4, 48, (12,), (-1,), 11),
    (4, 48, (-12,), (1,), 0),
    (4, 48, (12,), (1,), -1),
    (4, 48, (2**40, 2**40), (1, 1), 0),
    (4, 48, (12,), (1, 1), 0),
    (4, 48, (1,) * 20, (1,) * 20, 0),
    (4, 48, (12.0,), (1,), 0),
    (4, 48, (True,), (1,), 0),
    (4, 60, (12,), (1,), 0),
    (-4, 48, (12,), (1,), 0),
    (1000, 48, (12,), (1,), 0),
  ],
)
def test_nothing_outside_is_ever_looked_at(
  buffer, start, size, shape, stride, offset
):
  with pytest.raises(Damaged):
    mapped.view(buffer, FLOAT, start, size, shape, stride, offset)


def test_what_is_no_file_is_refused(tmp_path):
  (tmp_path / 'empty').touch()
  os.mkfifo(tmp_path / 'pipe')  # Opened to read, it would wait for a writer.
  for name, what in (
    ('empty', 'is empty'),
    ('pipe', 'no regular file'),
    ('.', 'no regular file'),
    ('nothing', 'No such file'),
  ):
    with pytest.raises(UserError, match=what):
      mapped.map_file(str(tmp_path / name))
