"""Pictures of conditions show what they should."""

import numpy as np

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
