"""Inpainting: holes are black, masks nearest, known pixels untouched."""

import jax
import numpy as np
import pytest

from ldm_jax import build
from ldm_jax.data import images
from ldm_jax.tasks.inpainting import Inpainting, Prepare
from ldm_jax.types import UserError

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (2, 16, 24, 3), np.uint8)
MASK = (RNG.random((2, 16, 24, 1)) > 0.6).astype(np.float32)


def corner(image):
  """Stands for a first stage with f = 4: the first pixel of each block."""
  return image[:, ::4, ::4]


def test_the_masked_image_is_black_in_its_holes_and_the_mask_follows():
  batch = Prepare().arrays({'image': IMAGE, 'mask': MASK})
  told = Inpainting().apply({}, batch, corner, False)
  assert told.concat.shape == (2, 4, 6, 4) and told.context is None
  # In [0, 1] first, as released.
  masked = 2 * (IMAGE / 255 * (1 - MASK)) - 1
  np.testing.assert_allclose(told.concat[..., :3], corner(masked), atol=1e-6)
  np.testing.assert_array_equal(told.concat[..., 3:], corner(2 * MASK - 1))


@pytest.mark.parametrize('h, w', [(4, 6), (8, 12), (5, 7)])
def test_the_mask_shrinks_as_torch_does_it(h, w):
  batch = Prepare().arrays({'image': IMAGE, 'mask': MASK})
  encode = lambda image: np.zeros((image.shape[0], h, w, 3))
  found = Inpainting().apply({}, batch, encode, False).concat[..., 3]
  rows = np.floor(np.arange(h) * (16 / h)).astype(int)
  columns = np.floor(np.arange(w) * (24 / w)).astype(int)
  expected = 2 * MASK[:, rows][:, :, columns, 0] - 1
  np.testing.assert_array_equal(found, expected)


def test_holes_masks_and_the_order_of_channels_are_settings():
  batch = Prepare().arrays({'image': IMAGE, 'mask': MASK})
  form = Inpainting(latent_scale=0.5, hole=0.0, mask_low=0.0, mask_first=True)
  found = form.apply({}, batch, corner, False).concat
  np.testing.assert_array_equal(found[..., :1], corner(MASK))
  # As Stable Diffusion's scripts have it: grey where the mask is.
  masked = batch['image'] * (MASK < 0.5)
  np.testing.assert_allclose(found[..., 1:], 0.5 * corner(masked), atol=1e-6)


def test_the_null_knows_no_pixel():
  batch = Prepare().arrays({'image': IMAGE, 'mask': MASK})
  null = Inpainting().null(batch)
  told = Inpainting().apply({}, null, corner, False).concat
  expected = np.broadcast_to([-1, -1, -1, 1], told.shape)
  np.testing.assert_array_equal(told, expected)


def test_the_mask_is_drawn_from_the_generator():
  prepare = Prepare('thick_256')
  example = {'image': np.zeros((64, 64, 3), np.float32), 'text': 'x'}
  one, again, other = (
    prepare(example, np.random.default_rng(seed)) for seed in (1, 1, 2)
  )
  assert set(one) == {'image', 'mask'} and one['mask'].shape == (64, 64, 1)
  np.testing.assert_array_equal(one['mask'], again['mask'])
  assert (one['mask'] != other['mask']).any()


def test_finished_images_keep_known_pixels_bit_for_bit():
  arrays = Prepare().arrays({'image': images.to_float(IMAGE), 'mask': MASK})
  drawn = RNG.integers(0, 256, IMAGE.shape, np.uint8)
  found = Prepare().finish(drawn, arrays)
  assert found.dtype == np.uint8
  hole = np.broadcast_to(MASK == 1, IMAGE.shape)
  np.testing.assert_array_equal(found[~hole], IMAGE[~hole])
  np.testing.assert_array_equal(found[hole], drawn[hole])


@pytest.mark.parametrize(
  'given, message',
  [
    ({'image': IMAGE}, r'\(mask\)'),
    ({'mask': MASK}, r'\(image\)'),
    ({'image': IMAGE, 'mask': MASK[:, :8]}, '8x24 pixels and the image 16x24'),
    ({'image': IMAGE, 'mask': MASK + 1}, '2; it must be 0'),
  ],
)
def test_mistakes_are_one_clear_line(given, message):
  with pytest.raises(UserError, match=message):
    Prepare().arrays(given)


def test_masks_are_settings_by_name():
  with pytest.raises(UserError, match='lama_256'):
    Prepare('lama')


def test_a_hole_is_a_value_that_pixels_have():
  with pytest.raises(UserError, match=r'task\.hole=127.0 must be between -1'):
    build.task({'name': 'inpainting', 'hole': 127})


def test_it_jits():
  batch = Prepare().arrays({'image': IMAGE, 'mask': MASK})
  told = jax.jit(lambda b: Inpainting().apply({}, b, corner, True))(batch)
  assert told.concat.dtype == np.float32
