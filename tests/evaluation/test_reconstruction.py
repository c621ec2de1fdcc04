"""PSNR of known errors."""

import numpy as np

from ldm_jax.evaluation import reconstruction


def test_psnr_of_a_known_error():
  x = np.zeros((2, 4, 4, 3))
  y = x.copy()
  y[0] += 0.2  # MSE 0.04 against a peak of 2: 4 / 0.04.
  y[1] += 2.0
  np.testing.assert_allclose(reconstruction.psnr(x, y), [20.0, 0.0])


def test_psnr_does_not_depend_on_the_unit():
  rng = np.random.default_rng(0)
  x, y = rng.uniform(0, 255, (2, 3, 4, 4, 3))
  np.testing.assert_allclose(
    reconstruction.psnr(x, y, 255),
    reconstruction.psnr(x / 127.5 - 1, y / 127.5 - 1),
  )


def test_an_equal_image_is_infinitely_good():
  assert reconstruction.psnr(*np.ones((2, 1, 2, 2, 3)))[0] == np.inf
