"""ADM's npz: what is written is read, by NumPy too, and hostile files not."""

import numpy as np
import pytest

from ldm_jax.evaluation import npz
from ldm_jax.types import UserError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (5, 4, 6, 3), np.uint8)
STATISTICS = {
  'pool': (RNG.random(8), RNG.random((8, 8))),
  'spatial': (RNG.random(3), RNG.random((3, 3))),
}


def test_images_and_statistics_come_back(tmp_path):
  path = tmp_path / 'a' / 'b.npz'
  npz.write(path, IMAGES, STATISTICS)
  np.testing.assert_array_equal(npz.read_images(path), IMAGES)
  found = npz.read_statistics(path)
  for name, pair in STATISTICS.items():
    for ours, theirs in zip(found[name], pair):
      np.testing.assert_array_equal(ours, theirs)
  with np.load(path) as archive:
    assert set(archive) == {'arr_0', 'mu', 'sigma', 'mu_s', 'sigma_s'}


@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_what_numpy_wrote_is_read(tmp_path, save):
  save(tmp_path / 'a.npz', IMAGES, np.arange(5))  # With labels in arr_1.
  found = npz.read_images(tmp_path / 'a.npz')
  np.testing.assert_array_equal(found, IMAGES)
  assert isinstance(found, np.memmap) == (save is np.savez)
  assert not npz.read_statistics(tmp_path / 'a.npz')


def test_what_holds_no_images_is_named(tmp_path):
  npz.write(tmp_path / 'a.npz', statistics=STATISTICS)
  with pytest.raises(UserError, match='no array arr_0'):
    npz.read_images(tmp_path / 'a.npz')
  np.savez(tmp_path / 'b.npz', IMAGES / 255)
  with pytest.raises(UserError, match='float64'):
    npz.read_images(tmp_path / 'b.npz')
  (tmp_path / 'c.npz').write_bytes(b'PK')
  for read in (npz.read_images, npz.read_statistics):
    with pytest.raises(UserError, match='c.npz cannot be read'):
      read(tmp_path / 'c.npz')
  np.savez(tmp_path / 'd.npz', mu=np.ones(3), sigma=np.ones((2, 2)))
  with pytest.raises(UserError, match='shapes'):
    npz.read_statistics(tmp_path / 'd.npz')


class Hostile:
  def __reduce__(self):
    return (print, ('executed',))


@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_pickles_are_not_read(tmp_path, save, capsys):
  save(tmp_path / 'a.npz', arr_0=np.array([Hostile()], object))
  with pytest.raises(UserError, match='a.npz'):
    npz.read_images(tmp_path / 'a.npz')
  assert 'executed' not in capsys.readouterr().out
