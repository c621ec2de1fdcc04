"""A file is the old one or the new one, and never a part of it."""

import pytest

from ldm_jax import whole
from ldm_jax.types import UserError


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


def test_a_folder_that_can_be_made_is_told_from_one_that_cannot(
  tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'file').write_text('')
  for folder in ('.', 'new', 'new/newer', tmp_path / 'new'):
    whole.check_folder('--out', folder)
  for folder in ('file', 'file/new', tmp_path / 'file' / 'new'):
    with pytest.raises(UserError, match='file is a file, not a folder'):
      whole.check_folder('--out', folder)
  assert [p.name for p in tmp_path.iterdir()] == ['file']
  # Root writes everywhere, so the answer is given.
  monkeypatch.setattr('os.access', lambda path, mode: False)
  with pytest.raises(UserError, match='--out=new: . cannot be written to'):
    whole.check_folder('--out', 'new')
