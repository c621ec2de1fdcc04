"""The nearest images are scikit-learn's, and an image finds its own copy."""

import numpy as np
from sklearn.neighbors import NearestNeighbors

from ldm_jax.evaluation import features, neighbours, random_features
from ldm_jax.evaluation.image_sets import ImageSet

IMAGES = np.random.default_rng(0).integers(0, 256, (33, 12, 12, 3), np.uint8)
SET = ImageSet('images', 33, lambda i: IMAGES[i], lambda: '')
NETWORK = random_features.network()


def test_sklearn_finds_the_same():
  samples = list(255 - IMAGES[:3])
  indices, away = neighbours.nearest(NETWORK, samples, SET, 5, batch_size=7)
  rows, queries = (
    features.extract(NETWORK, [x])['pool'] for x in (IMAGES, samples)
  )
  tree = NearestNeighbors(n_neighbors=5).fit(rows)
  expected_away, expected = tree.kneighbors(queries)
  np.testing.assert_array_equal(indices, expected)
  np.testing.assert_allclose(away, expected_away, rtol=1e-3)


def test_a_copy_of_a_training_image_is_seen():
  indices, away = neighbours.nearest(NETWORK, [IMAGES[20]], SET, 3, 10)
  assert indices[0, 0] == 20 and away[0, 0] < 1e-3 < away[0, 1]
  sheet = neighbours.picture([IMAGES[20]], SET, indices)
  assert sheet.shape == (12, 48, 3)
  np.testing.assert_array_equal(sheet[:, :12], sheet[:, 12:24])
