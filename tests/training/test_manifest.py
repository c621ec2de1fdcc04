"""Tests for ldm_jax.training.manifest."""

import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from ldm_jax.training import manifest

RNG = np.random.default_rng(0)


def whole(array):
  index = (slice(None),) * array.ndim
  return manifest.array_sums(array, index, array.shape)


def test_sums_are_those_of_the_definition():
  array = RNG.normal(size=(3, 4, 5)).astype(np.float32)
  words = [int(w) for w in array.view(np.uint32).ravel()]
  assert whole(array) == (
    sum(words) % 2**64,
    sum(i * w for i, w in enumerate(words)) % 2**64,
  )


@pytest.mark.parametrize('axis', [0, 1, 2])
def test_sums_of_parts_add_up_however_it_is_cut(axis):
  array = RNG.integers(-(2**31), 2**31, (6, 4, 8), np.int32)
  parts = []
  for start in range(0, array.shape[axis], 2):
    index = [slice(None)] * 3
    index[axis] = slice(start, start + 2)
    parts.append(
      manifest.array_sums(array[tuple(index)], tuple(index), array.shape)
    )
  assert manifest.add_sums(parts) == whole(array)


def test_every_single_bit_flip_changes_the_sums():
  array = RNG.normal(size=(7,)).astype(np.float32)
  before = whole(array)
  for bit in range(array.nbytes * 8):
    flipped = array.copy()
    flipped.view(np.uint8)[bit // 8] ^= 1 << bit % 8
    assert whole(flipped) != before


def test_swapped_values_change_the_sums():
  array = np.arange(6, dtype=np.float32).reshape(2, 3)
  assert whole(array) != whole(array[::-1])
  assert whole(array) != whole(array[:, [1, 0, 2]])


@pytest.mark.parametrize(
  'array',
  [
    np.float32(3),
    np.zeros((0, 4), np.float32),
    np.array([True, False]),
    np.array(jnp.ones((2, 2), jnp.bfloat16)),
    np.array([2**63 + 5, 7], np.uint64),
  ],
)
def test_all_kinds_of_arrays_have_sums(array):
  total, weighted = whole(np.asarray(array))
  assert 0 <= total < 2**64 and 0 <= weighted < 2**64


def committed(tmp_path):
  folder = epath.Path(tmp_path)
  (folder / 'a').mkdir()
  (folder / 'a' / 'b').write_bytes(b'hello')
  (folder / 'empty').write_bytes(b'')
  names = manifest.list_files(folder)
  assert names == ['a/b', 'empty']
  manifest.write(folder, {'files': manifest.file_sums(folder, names)})
  return folder


def test_an_untouched_folder_is_valid(tmp_path):
  folder = committed(tmp_path)
  manifest.verify_files(folder, manifest.read(folder))


@pytest.mark.parametrize('name', ['manifest.json', 'COMMITTED', 'a/b'])
@pytest.mark.parametrize('how', ['flip', 'truncate', 'extend', 'delete'])
def test_every_change_to_a_file_is_damage(tmp_path, name, how):
  folder = committed(tmp_path)
  data = (folder / name).read_bytes()
  if how == 'delete':
    (folder / name).unlink()
  else:
    (folder / name).write_bytes(
      {
        'flip': bytes([data[0] ^ 1]) + data[1:],
        'truncate': data[:-1],
        'extend': data + b' ',
      }[how]
    )
  with pytest.raises(manifest.Damaged, match=name.split('.')[0]):
    manifest.verify_files(folder, manifest.read(folder))


def test_damage_outside_what_is_asked_for_does_not_matter(tmp_path):
  folder = committed(tmp_path)
  (folder / 'a' / 'b').unlink()
  content = manifest.read(folder)
  manifest.verify_files(folder, content, ['empty'])
  with pytest.raises(manifest.Damaged):
    manifest.verify_files(folder, content, ['a/'])
