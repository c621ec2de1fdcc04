"""What is wrong with a file of weights is said, with what was needed."""

import hashlib

import numpy as np
import pytest

from ldm_jax.evaluation import weights
from ldm_jax.types import UserError


def read(path, reader=None):
  return weights.read_checked(path, reader, '--net', 'net.pth (sha256 abc)')


def test_no_file_names_file_digest_and_option(tmp_path):
  for path in (None, '', str(tmp_path / 'absent.pth')):
    with pytest.raises(UserError, match=r'--net.*net.pth \(sha256 abc\)'):
      read(path)


def test_arrays_come_with_the_files_digest(tmp_path):
  path = tmp_path / 'a.npz'
  np.savez(path, x=np.arange(3.0))
  arrays, digest = read(str(path))
  np.testing.assert_array_equal(arrays['x'], np.arange(3.0))
  assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
  other = tmp_path / 'a.pth'
  other.write_bytes(b'tensors')
  assert read(str(other), lambda p: {'path': p})[0] == {'path': str(other)}


def test_a_damaged_archive(tmp_path):
  path = tmp_path / 'a.npz'
  path.write_bytes(b'PK')
  with pytest.raises(UserError, match='a.npz cannot be read'):
    read(str(path))


def test_everything_wrong_is_named():
  shapes = {'a': {'kernel': (2, 3)}, 'b': {'kernel': (2,)}, 'c': (1,)}
  arrays = {'a.kernel': np.zeros((2, 3)), 'c': np.array([np.nan])}
  name_of = lambda path: ('.'.join(path), (1, 0) if 'a' in path else None)
  with pytest.raises(UserError) as error:
    weights.checked(arrays, shapes, name_of, 'f does not hold', 'net.pth')
  for part in ('a.kernel is (2, 3)', 'b.kernel is missing', 'c is not finite'):
    assert part in str(error.value)
  arrays = {'a.kernel': np.ones((3, 2)), 'b.kernel': [1, 2], 'c': [3]}
  found = weights.checked(arrays, shapes, name_of, '', '')
  assert found['a']['kernel'].shape == (2, 3)
  assert found['a']['kernel'].dtype == np.float32
