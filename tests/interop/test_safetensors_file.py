"""Safetensors in place, against the library; the hostile are elsewhere."""

import numpy as np
import pytest
import safetensors.numpy

from ldm_jax.interop import files, mapped, safetensors_file
from ldm_jax.types import UserError


def test_the_librarys_files_are_read(tmp_path):
  rng = np.random.default_rng(0)
  tensors = {
    f'{dtype}.{i}': (rng.standard_normal((i, 3)) * 9).astype(dtype)
    for i, dtype in enumerate(
      ('f8', 'f4', 'f2', 'i8', 'i4', 'i2', 'i1', 'u1', '?')
    )
  }
  path = str(tmp_path / 'x.safetensors')
  safetensors.numpy.save_file(tensors, path, {'format': 'pt', 'any': 'thing'})
  buffer = mapped.map_file(path)
  assert safetensors_file.is_safetensors(buffer)
  found = safetensors_file.read(buffer)
  assert found.keys() == tensors.keys()
  for name, x in tensors.items():
    assert found[name].dtype == x.dtype
    np.testing.assert_array_equal(found[name], x)


def test_bfloat16_is_read_in_place(tmp_path):
  path = str(tmp_path / 'x.safetensors')
  x = np.asarray([1.5, -2.0, 3.0e38], mapped.BFLOAT16)
  files.write_tensors(path, {'x': x})
  found = files.read_tensors(path)['x']
  assert found.dtype == mapped.BFLOAT16
  np.testing.assert_array_equal(found, x)
  assert not found.flags.owndata


def test_the_library_reads_what_is_written_here(tmp_path):
  path = str(tmp_path / 'x.safetensors')
  tensors = {
    'small': np.arange(3, dtype=np.int8),
    'turned': np.arange(6, dtype=np.float32).reshape(2, 3).T,
    'scalar': np.float32(2.5),
    'none': np.zeros((0, 3)),
  }
  files.write_tensors(path, tensors)
  found = safetensors.numpy.load_file(path)
  assert found.keys() == tensors.keys()
  for name, x in tensors.items():
    assert found[name].shape == x.shape and found[name].dtype == x.dtype
    np.testing.assert_array_equal(found[name], x)


def test_a_type_that_it_lacks_is_refused(tmp_path):
  with pytest.raises(UserError, match='x is complex64'):
    files.write_tensors(
      str(tmp_path / 'x.safetensors'), {'x': np.zeros(3, np.complex64)}
    )
