"""The random network is the same everywhere, and blind to nothing simple."""

import numpy as np
import pytest

from ldm_jax.evaluation import random_features
from ldm_jax.evaluation.features import extract
from ldm_jax.types import UserError

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)


def pool(images):
  return extract(random_features.network(), [images])['pool']


def test_its_weights_never_change():
  digest = random_features.network().digest
  assert digest == random_features.network().digest
  # A change of the network would make older reports incomparable.
  assert digest.startswith('2e0a8db0dc2cbeec')


def test_flat_images_differ_by_colour_alone_and_not_by_size():
  red = np.zeros((1, 16, 16, 3), np.uint8)
  red[..., 0] = 255
  np.testing.assert_allclose(
    pool(red), pool(np.tile(red, (1, 2, 2, 1))), rtol=1e-4, atol=1e-4
  )
  assert np.abs(pool(red) - pool(255 - red)).max() > 0.1


def test_images_of_nothing_are_refused():
  with pytest.raises(UserError, match='10x12'):
    pool(np.zeros((1, 12, 10, 3), np.uint8))
  assert np.isfinite(pool(np.zeros((1, 11, 11, 3), np.uint8))).all()


def test_it_is_not_called_fid():
  name = random_features.network().name.lower()
  assert 'random' in name and 'fid' not in name and 'inception' not in name
