"""Images begun from, through the Python face, by a model of no such task."""

import numpy as np
import pytest

from ldm_jax import edits
from ldm_jax.types import UserError
from tests import untrained

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (2, 16, 24, 3), np.uint8)
MASK = np.zeros((16, 24, 1), np.uint8)
MASK[:, 10:] = 1


def draw(**settings):
  ldm = untrained.unconditional()
  return ldm.sample(**{'num': 2, 'steps': 3, **settings})


def test_known_pixels_stay_and_holes_say_nothing():
  known = np.broadcast_to(MASK == 0, IMAGES.shape)
  found = draw(image=IMAGES, mask=MASK)
  assert found.shape == IMAGES.shape
  np.testing.assert_array_equal(found[known], IMAGES[known])
  assert (found[~known] != IMAGES[~known]).mean() > 0.9
  other = np.where(MASK, RNG.integers(0, 256, IMAGES.shape, np.uint8), IMAGES)
  np.testing.assert_array_equal(draw(image=other, mask=MASK), found)


def test_outpainting_is_a_hole_around_the_image():
  wide = draw(num=1, image=IMAGES[0], outpaint=(0, 0, 8, 16))
  assert wide.shape == (1, 24, 40, 3)
  np.testing.assert_array_equal(wide[0, :16, 16:], IMAGES[0])
  assert np.ptp(wide[0, 16:].astype(int)) > 10


def test_no_strength_is_the_first_stages_image():
  ldm = untrained.unconditional()
  found = draw(image=IMAGES, strength=0.0)
  x = ldm.decode(ldm.encode(IMAGES / np.float32(127.5) - 1))
  again = np.rint((np.clip(x, -1, 1) + 1) * 127.5)
  assert np.abs(found - again).max() <= 1
  assert (draw(image=IMAGES, strength=0.7) != found).mean() > 0.5


@pytest.mark.parametrize(
  ('given', 'says'),
  [
    ({'image': IMAGES}, 'a strength such as 0.6'),
    ({'mask': MASK}, 'give image too'),
    ({'strength': 0.5}, 'needs an image'),
    ({'image': IMAGES, 'strength': 1.5}, 'strength=1.5 is outside 0'),
    ({'image': IMAGES, 'mask': MASK[:8]}, '8x24 pixels and the image 16x24'),
    ({'image': IMAGES[:, :15], 'strength': 0.5}, '15x24 does not divide'),
    ({'image': IMAGES, 'strength': 0.5, 'size': (32, 32)}, 'leave size out'),
    ({'image': IMAGES, 'outpaint': (1, 2)}, 'four whole numbers'),
    ({'image': IMAGES[[0, 1, 1]], 'strength': 0.5}, "3 values of 'image'"),
    ({'size': (20, 32)}, 'multiples of 8 pixels'),
    ({'size': (64, 64), 'window': 30}, "divide by the first stage's f=4"),
    ({'size': (64, 64), 'tile': 20}, 'tile=20'),
  ],
)
def test_mistakes_are_one_clear_line(given, says):
  with pytest.raises(UserError, match=says) as error:
    draw(**given)
  assert '\n' not in str(error.value)


def test_what_a_task_asks_for_stays_the_tasks():
  given = {'image': IMAGES, 'mask': MASK, 'text': 'a'}
  edit, rest = edits.split(2, given, {'image', 'mask', 'text'})
  assert edit is None and rest == given
  edit, rest = edits.split(2, given, {'text'})
  assert edit.size == (16, 24) and list(rest) == ['text']
  with pytest.raises(UserError, match='leave strength out'):
    edits.split(2, given, {'image', 'mask'}, 0.5)
  # A canvas around an inpainted image has both holes.
  _, rest = edits.split(2, given, {'image', 'mask'}, outpaint=(0, 4, 0, 0))
  assert rest['mask'].shape == (2, 16, 28, 1) or rest['mask'].shape[0] == 1
  assert rest['mask'][0, :, 10:].all() and not rest['mask'][0, :, :10].any()


def test_a_large_image_in_tiles_is_the_same():
  image = RNG.integers(0, 256, (64, 72, 3), np.uint8)
  whole, tiled = (
    draw(num=1, steps=1, image=image, strength=1.0, **how).astype(int)
    for how in ({}, {'tile': 44})
  )
  assert np.ptp(whole) > 20
  assert np.abs(whole - tiled).max() <= 1


def test_windows_draw_the_whole_canvas():
  settings = {'num': 1, 'size': (32, 64), 'steps': 1}
  whole, many = draw(**settings), draw(**settings, window=32)
  assert many.shape == (1, 32, 64, 3) and (many != whole).any()
