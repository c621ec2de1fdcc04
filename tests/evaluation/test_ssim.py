"""SSIM against scikit-image and scipy's filters."""

import numpy as np
import pytest
from scipy import ndimage

from ldm_jax.evaluation.ssim import ssim
from ldm_jax.types import UserError

RNG = np.random.default_rng(0)
X = ndimage.gaussian_filter(RNG.random((3, 24, 31, 3)), (0, 2, 2, 0))
X = np.uint8(255 * (X - X.min()) / np.ptp(X))
Y = np.clip(X + 12 * RNG.standard_normal(X.shape), 0, 255).astype(np.uint8)


def by_definition(x, y, peak, zero):
  """One image, with scipy; its border is cropped or full of zeros."""
  blur = lambda u: ndimage.gaussian_filter(
    u, (1.5, 1.5, 0), radius=(5, 5, 0), mode='constant'
  )
  x, y = np.float64(x) / peak, np.float64(y) / peak
  a, b = blur(x), blur(y)
  xx, yy, xy = blur(x * x) - a * a, blur(y * y) - b * b, blur(x * y) - a * b
  value = (2 * a * b + 1e-4) * (2 * xy + 9e-4)
  value /= (a * a + b * b + 1e-4) * (xx + yy + 9e-4)
  return (value if zero else value[5:-5, 5:-5]).mean()


@pytest.mark.parametrize('padding', ['valid', 'zero'])
def test_scipy_agrees(padding):
  expected = [by_definition(x, y, 255, padding == 'zero') for x, y in zip(X, Y)]
  np.testing.assert_allclose(ssim(X, Y, padding=padding), expected, rtol=1e-5)


def test_scikit_image_agrees():
  metrics = pytest.importorskip('skimage.metrics')
  expected = [
    metrics.structural_similarity(
      x,
      y,
      data_range=255,
      channel_axis=-1,
      gaussian_weights=True,
      use_sample_covariance=False,
    )
    for x, y in zip(X, Y)
  ]
  np.testing.assert_allclose(ssim(X, Y), expected, rtol=1e-5)


def test_equal_images_are_one_and_the_unit_does_not_matter():
  np.testing.assert_allclose(ssim(X, X), 1, rtol=1e-6)
  np.testing.assert_allclose(ssim(X / 255, Y / 255, 1.0), ssim(X, Y), rtol=1e-5)


def test_flat_images_keep_their_digits():
  flat = np.full((1, 16, 16, 3), 200, np.uint8)
  expected = by_definition(flat[0], flat[0] + 3, 255, False)
  np.testing.assert_allclose(ssim(flat, flat + 3), expected, rtol=1e-5)


def test_smaller_than_a_window():
  with pytest.raises(UserError, match='10x16'):
    ssim(np.zeros((1, 10, 16, 3)), np.zeros((1, 10, 16, 3)))
