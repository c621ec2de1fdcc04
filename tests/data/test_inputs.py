"""A user's arrays: accepted in every sensible form, refused in one line."""

import numpy as np
import pytest

from ldm_jax.data import inputs
from ldm_jax.types import UserError


def test_uint8_and_float_images_agree():
  pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3), np.uint8)
  as_float = pixels / 127.5 - 1
  np.testing.assert_allclose(
    inputs.image('image', pixels), inputs.image('image', as_float), atol=1e-6
  )


@pytest.mark.parametrize(
  'image',
  [
    np.zeros((4, 4), np.uint8),
    np.zeros((4, 4, 4), np.uint8),
    np.full((4, 4, 3), 255.0),
    np.full((4, 4, 3), np.nan),
    np.zeros((4, 4, 3), np.int64),
    [np.zeros((4, 4, 3)), np.zeros((5, 4, 3))],
  ],
)
def test_what_is_no_image_is_refused(image):
  with pytest.raises(UserError, match='image'):
    inputs.image('image', image)


@pytest.mark.parametrize(
  'mask',
  [
    np.array([[0, 1]], bool),
    np.array([[0, 1]]),
    np.array([[0, 255]], np.uint8),
    np.array([[0.49, 0.5]]),
    np.array([[[0], [1]]], np.float32),
  ],
)
def test_masks_become_zeros_and_ones(mask):
  found = inputs.mask('mask', mask)
  assert found.shape == (1, 2, 1) and found.dtype == np.float32
  assert found.ravel().tolist() == [0, 1]


def test_a_mask_of_grey_levels_is_refused_as_float():
  with pytest.raises(UserError, match='255'):
    inputs.mask('mask', np.array([[0.0, 255.0]]))


def test_whole_floats_are_integers_and_others_are_not():
  assert inputs.integers('label', np.array([1.0, 2.0]), '[B]').tolist() == [
    1,
    2,
  ]
  with pytest.raises(UserError, match='label is float64'):
    inputs.integers('label', np.array([1.5]), '[B]')
