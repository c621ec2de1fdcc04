"""TensorFlow 1's bilinear resizing, pixel by pixel."""

import numpy as np
import pytest

from ldm_jax.evaluation.resize import bilinear_tf1


def by_definition(image, size):
  """One pixel at a time: src = i * in / out, clamped at the last."""
  height, width, _ = image.shape
  result = np.zeros((*size, image.shape[2]))
  for i in range(size[0]):
    for j in range(size[1]):
      y, x = i * height / size[0], j * width / size[1]
      top, left = int(y), int(x)
      bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
      fy, fx = y - top, x - left
      result[i, j] = (
        image[top, left] * (1 - fy) * (1 - fx)
        + image[top, right] * (1 - fy) * fx
        + image[bottom, left] * fy * (1 - fx)
        + image[bottom, right] * fy * fx
      )
  return result


@pytest.mark.parametrize('size', [(7, 9), (20, 13), (31, 40), (5, 5)])
def test_each_pixel(size):
  image = np.random.default_rng(0).integers(0, 256, (13, 20, 3), np.uint8)
  found = np.asarray(bilinear_tf1(image[None], size))[0]
  np.testing.assert_allclose(
    found, by_definition(np.float64(image), size), atol=1e-3
  )


def test_the_first_pixel_stays_and_the_own_size_changes_nothing():
  image = np.random.default_rng(1).integers(0, 256, (1, 9, 6, 3), np.uint8)
  np.testing.assert_array_equal(bilinear_tf1(image, (9, 6)), image)
  # With half-pixel centres it would be a mixture of four.
  np.testing.assert_array_equal(
    bilinear_tf1(image, (4, 4))[:, 0, 0], image[:, 0, 0]
  )


def test_it_does_not_antialias():
  stripes = np.tile(np.uint8([0, 255]), 8)[None, None, :, None]
  assert (np.asarray(bilinear_tf1(stripes, (1, 8))) == 0).all()
