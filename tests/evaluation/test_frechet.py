"""The Fréchet distance against closed forms and scipy's square root."""

import numpy as np
import pytest
import scipy.linalg
from scipy import ndimage

from ldm_jax.data.scenes import Scenes
from ldm_jax.evaluation import moments, random_features
from ldm_jax.evaluation.features import extract
from ldm_jax.evaluation.frechet import frechet_distance

RNG = np.random.default_rng(0)


def gaussian(count, dim, shift=0.0):
  rows = RNG.standard_normal((count, dim)) @ RNG.standard_normal((dim, dim))
  return rows + shift


def between(a, b):
  a, b = moments.of([a]), moments.of([b])
  return frechet_distance(a.mean, a.covariance, b.mean, b.covariance)


def by_definition(a, b):
  """With a root of the product, as the field computes it."""
  cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
  root = scipy.linalg.sqrtm(cov_a @ cov_b).real
  shift = a.mean(0) - b.mean(0)
  return shift @ shift + np.trace(cov_a + cov_b - 2 * root)


@pytest.mark.parametrize('dim', [2, 30, 100])
def test_scipy_agrees(dim):
  a, b = gaussian(400, dim), gaussian(300, dim, 0.3)
  np.testing.assert_allclose(between(a, b), by_definition(a, b), rtol=1e-6)


def test_commuting_covariances_have_a_closed_form():
  a, b = np.array([1.0, 4.0, 0.0]), np.array([9.0, 1.0, 0.25])
  found = frechet_distance(np.zeros(3), np.diag(a), np.ones(3), np.diag(b))
  # Each variance gives (sqrt a - sqrt b)^2, the means 3.
  np.testing.assert_allclose(found, 3 + 4 + 1 + 0.25, rtol=1e-12)


@pytest.mark.parametrize('count', [50, 2000])
def test_a_set_with_itself_is_zero(count):
  """Also where the covariance is singular: fewer rows than features."""
  rows = gaussian(count, 256) / 16
  assert between(rows, rows) < 1e-6
  assert between(rows, rows[::-1]) < 1e-6


def test_halves_are_near_and_worse_images_farther_and_farther():
  """Noise, blur, and mixing with others, in random features."""
  scenes = Scenes(600, split='train')
  images = np.stack([scenes[i]['image'] for i in range(600)])
  network = random_features.network()
  features = lambda x: extract(network, [x])['pool']
  first, second = features(images[:300]), features(images[300:])
  clip = lambda x: np.clip(np.round(x), 0, 255).astype(np.uint8)
  noise = RNG.standard_normal(images[300:].shape)
  others = RNG.integers(0, 256, images[300:].shape, np.uint8)
  halves = between(first, second)
  ladders = {
    'noise': [clip(images[300:] + s * noise) for s in (8, 16, 32, 64)],
    'blur': [
      clip(ndimage.gaussian_filter(images[300:] * 1.0, (0, s, s, 0)))
      for s in (0.4, 0.7, 1.2, 2.0)
    ],
    'mixing': [
      np.concatenate([others[:n], images[300 + n :]])
      for n in (15, 60, 150, 300)
    ],
  }
  for name, ladder in ladders.items():
    found = [between(first, features(step)) for step in ladder]
    assert halves < found[0], name
    assert (np.diff(found) > 0).all(), (name, found)
  assert halves < 0.05 * between(first, features(others))
