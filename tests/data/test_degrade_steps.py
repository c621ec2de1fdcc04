"""Each step does what its parameters say."""

import numpy as np
import pytest
from scipy import ndimage

from ldm_jax.data import degrade_steps as steps

RNG = np.random.default_rng(0)


def ramp(height=32, width=48):
  """Linear in x and y, so exact resizing keeps it linear."""
  y, x = np.mgrid[0:height, 0:width] + 0.5
  return np.stack([x / width, y / height, 0 * x + 0.5], -1).astype(np.float32)


@pytest.mark.parametrize('kind', steps.KINDS)
def test_resizing_keeps_places(kind):
  # A quarter pixel of displacement would be 0.03 here.
  small = steps.Resize(kind, (8, 12))(ramp(), RNG)
  np.testing.assert_allclose(small, ramp(8, 12), atol=5e-3)


def test_linear_and_cubic_alias_and_area_does_not():
  stripes = np.zeros((16, 16, 3), np.float32)
  stripes[:, ::2] = 1
  far = {
    kind: np.abs(steps.Resize(kind, (16, 5))(stripes, RNG) - 0.5).max()
    for kind in steps.KINDS
  }
  assert far['area'] < 0.2 < min(far['linear'], far['cubic'])


@pytest.mark.parametrize('factor', [2, 4])
def test_blur_and_stride_keeps_places(factor):
  small = steps.BlurAndStride(0.5 * factor, factor)(ramp(128, 128), RNG)
  exact = ramp(128 // factor, 128 // factor)
  inner = slice(16 // factor, -16 // factor)
  np.testing.assert_allclose(
    small[inner, inner], exact[inner, inner], atol=1e-4
  )


def test_blur_has_the_stated_spread_and_direction():
  point = np.zeros((41, 41, 3), np.float32)
  point[20, 20] = 1
  spread = steps.Blur(25, (3.0, 1.0), 0.0)(point, RNG)[..., 0]
  y, x = np.mgrid[-20:21, -20:21]
  assert spread.sum() == pytest.approx(1, abs=1e-5)
  assert np.sqrt((spread * x**2).sum()) == pytest.approx(3, rel=0.02)
  assert np.sqrt((spread * y**2).sum()) == pytest.approx(1, rel=0.02)
  turned = steps.Blur(25, (3.0, 1.0), np.pi / 2)(point, RNG)[..., 0]
  np.testing.assert_allclose(turned, spread.T, atol=1e-6)


@pytest.mark.parametrize('side', [5, 6, 7, 14])
def test_convolving_is_scipys_for_odd_and_even_sides(side):
  # Which the release calls: an even kernel's middle is behind the pixel.
  image = RNG.random((20, 17, 3)).astype(np.float32)
  kernel = RNG.random((side, side)).astype(np.float32)
  expected = ndimage.convolve(image, kernel[..., None], mode='reflect')
  found = steps.convolve(image, kernel)
  np.testing.assert_allclose(found, expected, rtol=1e-3)
  even = steps.gaussian(side, (2.0, 1.0), 0.3)
  np.testing.assert_allclose(even, even[::-1, ::-1], rtol=1e-4)


def test_noise_has_the_stated_covariance():
  covariance = np.array([[4.0, 1, 0], [1, 3, -1], [0, -1, 2]]) / 1000
  grey = np.full((200, 200, 3), 0.5, np.float32)
  noise = steps.GaussianNoise(covariance)(grey, RNG) - grey
  found = np.cov(noise.reshape(-1, 3).T)
  np.testing.assert_allclose(found, covariance, atol=2e-4)
  speckle = steps.SpeckleNoise(covariance)(grey, RNG) - grey
  found = np.cov(speckle.reshape(-1, 3).T)
  np.testing.assert_allclose(found, covariance / 4, atol=1e-4)


def test_jpeg_is_worse_at_lower_quality():
  grey = np.random.default_rng(1).random((32, 32, 1), np.float32)
  image = np.repeat(grey, 3, axis=-1)
  error = [np.abs(steps.Jpeg(q)(image, RNG) - image).mean() for q in (30, 95)]
  assert error[0] > 1.5 * error[1] > 0


def test_a_camera_without_noise_keeps_smooth_images():
  image = 0.2 + 0.6 * ramp(64, 64)
  seen = steps.Sensor(0.0, 0.0, (2.0, 1.0, 1.7))(image, RNG)
  # But for the border, where there are fewer neighbours to ask.
  np.testing.assert_allclose(seen[2:-2, 2:-2], image[2:-2, 2:-2], atol=4e-3)


def test_a_camera_is_noisier_in_the_dark():
  noise = []
  for level in (0.2, 0.8):
    image = np.full((128, 128, 3), level, np.float32)
    noise.append(steps.Sensor(1e-3, 1e-5, (2.0, 1.0, 1.7))(image, RNG).std())
  assert noise[0] > noise[1] > 0.005


def test_every_pixel_of_a_sensor_sees_one_colour():
  pattern = steps.bayer(6, 7)
  assert (pattern.sum(-1) == 1).all()
  assert pattern[::2, ::2, 0].all() and pattern[1::2, 1::2, 2].all()
