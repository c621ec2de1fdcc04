"""Statistics of sets, and when those in the cache are not of this set."""

import numpy as np
import pytest

from ldm_jax.evaluation import npz, random_features, statistics
from ldm_jax.evaluation.features import Network, extract
from ldm_jax.evaluation.image_sets import ImageSet, open_path

IMAGES = np.random.default_rng(0).integers(0, 256, (23, 12, 12, 3), np.uint8)
NETWORK = random_features.network()
WANTED = {'moments': ('pool',), 'rows': ('pool',), 'batch_size': 5}


@pytest.fixture
def images(tmp_path):
  npz.write(tmp_path / 'a.npz', IMAGES)
  return open_path(str(tmp_path / 'a.npz'), '--reference')


def test_moments_and_rows_are_of_all_images(images):
  found = statistics.measure(NETWORK, images, **WANTED)
  rows = extract(NETWORK, [IMAGES])['pool']
  np.testing.assert_allclose(found.rows['pool'], rows, atol=1e-5)
  mean, cov = found.moments['pool']
  np.testing.assert_allclose(mean, rows.mean(0), rtol=1e-4)
  np.testing.assert_allclose(cov, np.cov(rows, rowvar=False), atol=1e-4)
  assert found.count == 23 == found.pace.images


def test_the_cache_answers_for_the_same_and_only_for_it(images, tmp_path):
  def pace(network=NETWORK, images=images, **changes):
    return statistics.measure_cached(
      network, images, str(tmp_path / 'cache'), **{**WANTED, **changes}
    ).pace

  first = statistics.measure(NETWORK, images, **WANTED)
  assert pace(rows=()) is not None
  assert pace(rows=()) is None
  assert pace() is not None  # The rows were not there.
  assert pace() is None and pace(moments=()) is None
  only = dict(images=images.first(8))  # One after the other, both are kept.
  assert pace(**only, rows=()) is not None
  assert pace(**only, moments=()) is not None
  assert pace(**only) is None
  assert pace(images=images.first(9)) is not None
  # As another preparation, or other weights, would be.
  other = Network(NETWORK.name, NETWORK.params, NETWORK.apply, 16)
  assert pace(network=other) is not None
  again = statistics.measure_cached(
    NETWORK, images, str(tmp_path / 'cache'), **WANTED
  )
  for ours, theirs in zip(again.moments['pool'], first.moments['pool']):
    np.testing.assert_array_equal(ours, theirs)


def test_a_damaged_cache_is_written_again(images, tmp_path):
  cache = str(tmp_path / 'cache')
  statistics.measure_cached(NETWORK, images, cache, **WANTED)
  (path,) = (tmp_path / 'cache').iterdir()
  path.write_bytes(path.read_bytes()[:200])
  for measured in (True, False):
    found = statistics.measure_cached(NETWORK, images, cache, **WANTED)
    assert (found.pace is not None) == measured


def test_memory_of_moments_alone_does_not_hold_rows():
  one = ImageSet('one', 400, lambda i: IMAGES[i % 23], lambda: '')
  found = statistics.measure(NETWORK, one, moments=('pool',), batch_size=50)
  assert not found.rows and found.count == 400
