"""A file is the old one or the new one, and never a part of it."""

import pytest

from ldm_jax import whole


def test_a_file_is_there_once_it_is_whole(tmp_path):
  path = tmp_path / 'a.txt'
  for text in ('old', 'new'):
    with whole.written(path) as place:
      place.write_text(text)
      assert path.exists() == (text == 'new')
    assert path.read_text() == text
  assert list(tmp_path.iterdir()) == [path]


def test_what_fails_leaves_the_old_one_and_nothing_else(tmp_path):
  path = tmp_path / 'a.txt'
  path.write_text('old')
  with pytest.raises(OSError, match='disk'), whole.written(path) as place:
    place.write_text('ne')
    raise OSError('the disk is full')
  assert path.read_text() == 'old' and list(tmp_path.iterdir()) == [path]
