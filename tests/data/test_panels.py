"""Pictures of conditions show what they should."""

import numpy as np
import pytest

from ldm_jax.data import panels


def test_colours_of_classes_differ_and_none_is_black():
  found = {panels.colour(i) for i in range(200)}
  assert len(found) > 190 and (0, 0, 0) not in found
  assert panels.colour(-1) == (0, 0, 0)


def test_boxes_are_outlined_where_they_are():
  corners = np.float32([[0, 0, 1, 1], [0.25, 0.5, 0.75, 0.75]])
  found = panels.boxes(corners, np.array([3, 4]), (64, 128))
  assert found.shape == (64, 128, 3)
  assert tuple(found[0, 60]) == tuple(found[63, 5]) == panels.colour(3)
  assert tuple(found[32, 64]) == panels.colour(4)  # 0.5 * 63 is 31.5.
  assert tuple(found[40, 64]) == (255, 255, 255)


def test_maps_have_a_colour_for_each_class():
  segmentation = np.array([[[0, 1], [-1, 1]]])
  found = panels.classes(segmentation)
  assert found.shape == (1, 2, 2, 3)
  for place, index in np.ndenumerate(segmentation):
    assert tuple(found[place]) == panels.colour(int(index))


def test_holes_are_grey_and_the_rest_is_untouched():
  image = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), np.uint8)
  mask = np.zeros((2, 4, 4, 1))
  mask[:, 1] = 1
  found = panels.masked(image, mask)
  assert (found[:, 1] == 127).all()
  np.testing.assert_array_equal(found[:, 2:], image[:, 2:])


def test_small_images_become_large_pixels():
  small = np.arange(2 * 2 * 2 * 3, dtype=np.uint8).reshape(2, 2, 2, 3)
  found = panels.enlarged(small, (8, 4))
  np.testing.assert_array_equal(found, small.repeat(4, 1).repeat(2, 2))


def test_grids_hold_every_image_in_reading_order():
  images = np.arange(5, dtype=np.uint8)[:, None, None, None]
  images = np.broadcast_to(images * 10, (5, 4, 6, 3))
  grid = panels.grid(images, columns=3, gap=1)
  assert grid.shape == (2 * 5 + 1, 3 * 7 + 1, 3)
  for i in range(5):
    top, left = 1 + i // 3 * 5, 1 + i % 3 * 7
    assert (grid[top : top + 4, left : left + 6] == i * 10).all()
  assert (grid[6:, 15:] == 255).all()  # The empty place is background.


@pytest.mark.parametrize('columns', [0, 1, 2, 99])
def test_grids_fit_any_number_of_columns(columns):
  grid = panels.grid(np.zeros((2, 4, 4, 3), np.uint8), columns, 2)
  assert grid.size and (grid == 0).sum() == 2 * 4 * 4 * 3


def test_grids_of_floats_are_refused():
  with pytest.raises(ValueError, match='float64'):
    panels.grid(np.zeros((2, 4, 4, 3)))
