"""Batches of a request: every image has its own rows, in any of them."""

import numpy as np

from ldm_jax.diffusion.gradient_guidance import Guide
from tests import untrained

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (3, 16, 24, 3), np.uint8)
MASKS = np.zeros((3, 16, 24, 1), np.uint8)
MASKS[0, :, 10:], MASKS[1, 8:], MASKS[2, :, :4] = 1, 1, 1


def towards(denoise, schedule, decode, rows, shared):
  del schedule, decode, shared
  return lambda z, t: denoise(z, t) + rows['push'][:, None, None, None]


PUSHED = Guide(towards, {'push': np.array([0, 2, -2], np.float32)})


def draw(batch_size, **given):
  ldm = untrained.unconditional()
  return ldm.sample(num=3, steps=2, batch_size=batch_size, **given).astype(int)


def test_a_batch_takes_the_images_masks_and_guides_of_its_numbers():
  given = {'image': IMAGES, 'mask': MASKS, 'guides': [PUSHED]}
  whole, split = draw(3, **given), draw(2, **given)
  assert whole.shape == split.shape == IMAGES.shape
  assert np.abs(whole - split).max() <= 1
  known = np.broadcast_to(MASKS == 0, IMAGES.shape)
  np.testing.assert_array_equal(split[known], IMAGES[known])


def test_a_guides_rows_are_told_apart():
  pushed, free = draw(2, guides=[PUSHED]), draw(2)
  assert np.abs(pushed - free)[0].max() <= 1
  assert all(np.abs(pushed - free)[i].max() > 20 for i in (1, 2))


def test_tiles_come_in_batches_too():
  """Decoded on the host, where a batch's last rows are other images' again."""
  whole, split = (draw(n, size=(64, 64), tile=44) for n in (3, 2))
  assert np.abs(whole - split).max() <= 1
