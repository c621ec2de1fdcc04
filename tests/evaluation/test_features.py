"""Features do not depend on batches, devices or the company of others."""

import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.evaluation import features, random_features

IMAGES = np.random.default_rng(0).integers(0, 256, (37, 16, 16, 3), np.uint8)


def in_batches(size, images=IMAGES):
  return [images[i : i + size] for i in range(0, len(images), size)]


@pytest.mark.parametrize('size', [5, 8, 37])
def test_whatever_the_batches(size):
  network = random_features.network()
  found = features.extract(network, in_batches(size))['pool']
  whole = features.extract(network, [IMAGES])['pool']
  assert found.shape == (37, 256)
  np.testing.assert_allclose(found, whole, rtol=1e-5, atol=1e-5)


def brightness(size):
  apply = lambda params, x: {'pool': params['w'] * jnp.mean(x, (1, 2))}
  return features.Network('brightness', {'w': np.float32(2)}, apply, size)


def test_images_of_several_sizes_are_brought_to_one():
  images = [np.full((8 + i, 20 - i, 3), i, np.uint8) for i in range(10)]
  found = features.extract(brightness(12), [images[:6], images[6:]])['pool']
  np.testing.assert_allclose(found[:, 0], 2 * np.arange(10), rtol=1e-6)
  with pytest.raises(ValueError, match='one size'):
    features.extract(brightness(0), [images])


def test_the_digest_is_of_weights_and_size():
  assert brightness(8).digest == brightness(8).digest
  other = features.Network('brightness', {'w': np.float32(3)}, None, 8)
  assert len({brightness(8).digest, brightness(9).digest, other.digest}) == 3


def test_the_pace_counts_what_is_not_the_network():
  pace = features.Pace()
  list(features.stream(random_features.network(), in_batches(8), pace))
  about = pace.about()
  assert about['images'] == 37 and about['images_per_second'] > 0
  assert 0 <= about['share_outside_network'] < 1
