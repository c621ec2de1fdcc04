"""What a canvas keeps, and that holes say nothing."""

import numpy as np
import pytest

from ldm_jax.data import canvas
from ldm_jax.types import UserError

RNG = np.random.default_rng(0)


def test_an_image_stands_where_its_margins_leave_it():
  image = RNG.integers(0, 256, (5, 7, 3), np.uint8)
  wide, mask = canvas.outpainted(image, (1, 2, 3, 4))
  assert wide.shape == (9, 13, 3) and mask.shape == (9, 13, 1)
  np.testing.assert_array_equal(wide[1:6, 4:11], image)
  assert mask.sum() == 9 * 13 - 5 * 7 and not mask[1:6, 4:11].any()


@pytest.mark.parametrize(
  'margins', [(1, 2), (-1, 0, 0, 4), (0,) * 4, (0.5,) * 4]
)
def test_margins_that_are_none_are_refused(margins):
  with pytest.raises(UserError, match='outpaint='):
    canvas.outpainted(np.zeros((4, 4, 3)), margins)


def test_holes_are_filled_by_what_surrounds_them_alone():
  image = RNG.uniform(-1, 1, (2, 21, 16, 3)).astype(np.float32)
  mask = np.zeros((2, 21, 16, 1), np.float32)
  mask[:, 3:17, 2:11] = 1
  once = canvas.filled(image, mask)
  np.testing.assert_array_equal(
    np.where(mask, 0, once), np.where(mask, 0, image)
  )
  other = np.where(mask, 5, image)
  np.testing.assert_array_equal(canvas.filled(other, mask), once)
  assert once.min() >= -1 and once.max() <= 1
  # Two halves of one colour each: a hole between them runs from one to the
  # other.
  ramp = np.zeros((1, 8, 32, 3), np.float32)
  ramp[:, :, 16:] = 1
  hole = np.zeros((1, 8, 32, 1), np.float32)
  hole[:, :, 8:24] = 1
  row = canvas.filled(ramp, hole)[0, 4, :, 0]
  assert (np.diff(row) >= -1e-6).all() and np.diff(row).max() < 0.4


def test_all_unknown_is_grey():
  ones = np.ones((1, 4, 4, 1), np.float32)
  assert not canvas.filled(np.ones((1, 4, 4, 3), np.float32), ones).any()


def test_a_block_is_known_where_all_its_pixels_are():
  mask = np.zeros((1, 8, 12, 1))
  mask[0, 3, 5] = 1
  known = canvas.blocks(mask, (2, 3))[0, ..., 0]
  np.testing.assert_array_equal(known, [[1, 0, 1], [1, 1, 1]])
