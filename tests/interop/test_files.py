"""Writing and reading back; what a file is, is in the file."""

import os
import zipfile

import numpy as np
import pytest

from ldm_jax.interop import files
from ldm_jax.interop.mapped import BFLOAT16
from ldm_jax.types import UserError

TENSORS = {
  'a.weight': np.arange(6, dtype=np.float32).reshape(2, 3),
  'turned': np.arange(6, dtype=np.float32).reshape(2, 3).T,
  'half': np.arange(3, dtype=np.float16),
  'brain': np.arange(3, dtype=BFLOAT16),
  'double': np.arange(3, dtype=np.float64),
  'long': np.arange(3, dtype=np.int64),
  'scalar': np.float32(3.5),
  'none': np.zeros((0, 4), np.float32),
}


@pytest.mark.parametrize('ending', ['ckpt', 'safetensors'])
def test_there_and_back(tmp_path, ending):
  path = str(tmp_path / f'x.{ending}')
  files.write_tensors(path, TENSORS)
  # The name says nothing.
  os.rename(path, tmp_path / 'file')
  again = files.read_tensors(str(tmp_path / 'file'))
  assert again.keys() == TENSORS.keys()
  for name, x in TENSORS.items():
    assert again[name].dtype == x.dtype and again[name].shape == x.shape, name
    np.testing.assert_array_equal(again[name], x)


def test_the_same_tensors_make_the_same_file(tmp_path):
  for name in ('a.ckpt', 'b.ckpt'):
    files.write_tensors(str(tmp_path / name), TENSORS, 7)
  one, two = ((tmp_path / n).read_bytes() for n in ('a.ckpt', 'b.ckpt'))
  assert one == two


def test_storages_are_aligned_for_mapping(tmp_path):
  path = str(tmp_path / 'x.ckpt')
  files.write_tensors(path, TENSORS)
  with zipfile.ZipFile(path) as archive:
    assert archive.testzip() is None
    for info in archive.infolist():
      start = info.header_offset + 30 + len(info.filename) + len(info.extra)
      assert start % 64 == 0


def test_a_type_that_torch_lacks_is_refused(tmp_path):
  path = str(tmp_path / 'x.ckpt')
  with pytest.raises(UserError, match='complex128'):
    files.write_tensors(path, {'x': np.zeros(3, np.complex128)})
  assert os.listdir(tmp_path) == []


@pytest.mark.parametrize('ending', ['ckpt', 'safetensors'])
def test_a_folder_that_is_not_there_is_named(tmp_path, ending):
  path = str(tmp_path / 'no' / f'x.{ending}')
  with pytest.raises(UserError, match='no/x.*cannot be written'):
    files.write_tensors(path, TENSORS)
